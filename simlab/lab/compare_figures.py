"""Figures of a comparison; policies are told apart by colour and by dash."""

from typing import Any

import plotly.graph_objects as go

from simlab.lab.comparison import Comparison
from simlab.lab.figures import COLOURS
from simlab.lab.markup import plain

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def _style(i: int) -> dict[str, Any]:
    """Colour and dash of the i-th policy: never colour alone."""
    return {"color": COLOURS[i % len(COLOURS)], "dash": _DASHES[i % len(_DASHES)], "width": 2}


def reward_curves(result: Comparison, level: str) -> go.Figure:
    """Return the reward of each step, with a band over markets."""
    figure = go.Figure()
    for i, (name, rows) in enumerate(result.curves.groupby("policy", sort=False)):
        label = plain(str(name))
        if rows["lower"].notna().all():
            figure.add_trace(
                go.Scatter(
                    x=[*rows["step"], *rows["step"][::-1]],
                    y=[*rows["upper"], *rows["lower"][::-1]],
                    fill="toself",
                    fillcolor=COLOURS[i % len(COLOURS)],
                    opacity=0.18,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=label,
                )
            )
        figure.add_trace(
            go.Scatter(
                x=rows["step"].tolist(),
                y=rows["reward"].tolist(),
                mode="lines",
                name=label,
                legendgroup=label,
                line=_style(i),
            )
        )
    return _dress(
        figure,
        "Reward of each step",
        "step (slates seen)",
        f"reward per user and step, {level} band",
        "Mean reward of each policy at each step, with a band over markets.",
    )


def stay_curves(result: Comparison) -> go.Figure:
    """Return the share of users who are there at each step."""
    figure = go.Figure()
    for i, (name, rows) in enumerate(result.curves.groupby("policy", sort=False)):
        figure.add_trace(
            go.Scatter(
                x=rows["step"].tolist(), y=rows["active"].tolist(), name=plain(str(name)), line=_style(i)
            )
        )
    return _dress(
        figure, "Users who are there", "step (slates seen)", "share of users", "Share of users still there."
    )


def lorenz_curves(result: Comparison) -> go.Figure:
    """Return how exposure is shared out over items."""
    figure = go.Figure(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            name="equal exposure",
            line={"color": COLOURS[-1], "width": 1, "dash": "dot"},
        )
    )
    for i, (name, rows) in enumerate(result.lorenz.groupby("policy", sort=False)):
        figure.add_trace(
            go.Scatter(
                x=rows["items"].tolist(),
                y=rows["exposure"].tolist(),
                mode="lines",
                name=plain(str(name)),
                line=_style(i),
            )
        )
    return _dress(
        figure,
        "Lorenz curve of exposure",
        "share of items, least shown first",
        "share of all exposure",
        "How exposure is shared out over items: the lower the curve, the fewer items get it.",
    )


def drift_boxes(result: Comparison) -> go.Figure:
    """Return how far popularity moved in each market."""
    figure = go.Figure()
    for i, (name, rows) in enumerate(result.markets.groupby("policy", sort=False)):
        figure.add_trace(
            go.Box(
                x=rows["popularity_drift"].tolist(),
                name=plain(str(name)),
                orientation="h",
                boxpoints="all",
                marker={"color": COLOURS[i % len(COLOURS)]},
                showlegend=False,
            )
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=150 + 50 * len(result.frame))
    return _dress(
        figure,
        "Popularity drift",
        "popularity drift of each market",
        "policy",
        "How far popularity moved in each market under each policy.",
    )


def _dress(figure: go.Figure, title: str, x: str, y: str, alt: str) -> go.Figure:
    return figure.update_layout(
        title={"text": title}, xaxis={"title": {"text": x}}, yaxis={"title": {"text": y}}, meta={"alt": alt}
    )
