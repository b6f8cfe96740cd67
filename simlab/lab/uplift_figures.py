"""Figures of an uplift run: curves with bands, groups, overlap."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from causal.targeting.overlap import Overlap
from causal.targeting.rate import Band
from causal.targeting.returns import Returns
from causal.uplift.contract import Trial
from simlab.lab.figures import COLOURS
from simlab.lab.markup import number, plain
from simlab.lab.uplift_work import Arm

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def uplift_curves(arm: Arm, level: float, outcome: str) -> go.Figure:
    """Return the uplift curve of every learner, with a band for the best."""
    figure = go.Figure()
    _band(figure, arm.judged[0].curve, level, origin=True)
    for i, one in enumerate(arm.judged):
        _line(figure, one.curve.share, one.curve.value, one.name, i, origin=True)
    end = arm.judged[0].curve.value[-1]
    figure.add_scatter(
        x=[0, 1], y=[0, end], mode="lines", name="random order", line={"color": COLOURS[6], "dash": "dot"}
    )
    best = arm.judged[0]
    return _dress(
        figure,
        "Uplift curve",
        "share treated, best first",
        f"{outcome} gained a row",
        f"Outcomes gained a row of the population if the top share is treated; {best.name} with its "
        f"pointwise {level:.0%} band. Treating all gains {number(end)}.",
        percent=True,
    )


def toc_curve(arm: Arm, level: float) -> go.Figure:
    """Return the TOC of the best learner with its band."""
    figure = go.Figure()
    _band(figure, arm.toc, level)
    _line(figure, arm.toc.share, arm.toc.value, arm.judged[0].name, 0)
    figure.add_hline(y=0, line={"color": COLOURS[6], "dash": "dot"})
    return _dress(
        figure,
        "TOC: effect of the top share above the average effect",
        "share treated, best first",
        "effect above the average",
        f"Average effect among the top share by {arm.judged[0].name}, less that of all rows, with a "
        f"pointwise {level:.0%} band; a line at 0 would be an order that says nothing.",
        percent=True,
    )


def return_curve(arm: Arm, level: float, cost: float) -> go.Figure:
    """Return the incremental return of treating the top share."""
    figure = go.Figure()
    r: Returns = arm.returns
    _band(figure, Band(r.share, r.net, r.net_stderr, "return"), level, origin=True)
    _line(figure, r.share, r.net, arm.judged[0].name, 0, origin=True)
    figure.add_hline(y=0, line={"color": COLOURS[6], "dash": "dot"})
    at = int(r.net.argmax())
    return _dress(
        figure,
        "Incremental return",
        "share treated, best first",
        "return a row",
        f"Return of treating the top share by {arm.judged[0].name}, a row of the population, at a cost of "
        f"{number(cost)} a treated row, with a pointwise {level:.0%} band. It is greatest, "
        f"{number(r.net[at])}, at {r.share[at]:.0%}; the greatest of many looks a little better than it is.",
        percent=True,
    )


def cost_curve(arm: Arm, level: float) -> go.Figure:
    """Return outcomes gained against money spent."""
    figure = go.Figure()
    r: Returns = arm.returns
    low, high = Band(r.cost, r.gain, r.gain_stderr, "gain").interval(level)
    _fill(figure, [0, *r.cost], [0, *low], [0, *high])
    _line(figure, r.cost, r.gain, arm.judged[0].name, 0, origin=True)
    figure.add_scatter(
        x=[0, r.cost[-1]],
        y=[0, r.gain[-1]],
        mode="lines",
        name="random order",
        line={"color": COLOURS[6], "dash": "dot"},
    )
    return _dress(
        figure,
        "Cost curve",
        "cost a row of the population",
        "outcome gained a row",
        f"What is gained for what is spent, treating those first whom {arm.judged[0].name} puts first.",
    )


def group_plot(arm: Arm, level: float) -> go.Figure:
    """Return the effect of each group of rows by predicted effect, beside what was predicted."""
    groups = arm.groups
    assert groups is not None
    low, high = groups.interval(level)
    many = len(groups.effect)
    x = list(range(1, many + 1))
    figure = go.Figure(
        [
            go.Scatter(
                x=x,
                y=groups.effect.tolist(),
                mode="markers",
                name="effect by scores",
                marker={"size": 9, "color": COLOURS[0]},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": (high - groups.effect).tolist(),
                    "arrayminus": (groups.effect - low).tolist(),
                    "thickness": 1.8,
                    "width": 5,
                },
                hovertemplate="group %{x}: %{y:.5g}<extra></extra>",
            ),
            go.Scatter(
                x=x,
                y=arm.said.tolist(),
                mode="lines+markers",
                name="predicted",
                marker={"symbol": "diamond-open", "size": 8},
                line={"color": COLOURS[1], "dash": "dot"},
            ),
        ]
    )
    figure.update_xaxes(dtick=1 if many <= 20 else None)
    figure.add_hline(y=groups.average, line={"color": COLOURS[6], "dash": "dash"})
    top, bottom = groups.effect[-1], groups.effect[0]
    name = "decile" if many == 10 else "group"
    return _dress(
        figure,
        f"Uplift by {name}",
        f"{name} of the effect that {plain(arm.judged[0].name)} predicts, lowest first",
        "effect",
        f"Average effect of each {name} by doubly robust scores with its {level:.0%} interval; dashed: all "
        f"rows. The highest has {number(top)}, the lowest {number(bottom)}; their difference is "
        f"{number(groups.difference.value)} ± {number(groups.difference.stderr)}.",
    )


def overlap_plot(trial: Trial, seen: Overlap, k: int) -> go.Figure:
    """Return how the chance of an arm is spread among those who got it and those of control."""
    figure = go.Figure()
    chance = seen.chance[:, k]
    edge = np.linspace(0, 1, 41)
    for i, (arm, name) in enumerate(((k, trial.arms[k]), (0, trial.arms[0]))):
        own = chance[trial.arm == arm]
        count, _ = np.histogram(own, edge)
        figure.add_bar(
            x=((edge[1:] + edge[:-1]) / 2).tolist(),
            y=(count / max(len(own), 1)).tolist(),
            name=plain(f"got {name}"),
            marker={"color": COLOURS[i], "pattern": {"shape": "/" if i else ""}},
            opacity=0.65,
        )
    figure.add_vline(x=seen.bound, line={"color": COLOURS[6], "dash": "dot"})
    figure.update_layout(barmode="overlay")
    how = "known" if seen.known else "estimated out of fold"
    return _dress(
        figure,
        "Overlap",
        f"chance of arm {plain(trial.arms[k])}, {how}",
        "share of the arm's rows",
        f"The {how} chance of arm {trial.arms[k]} among rows that got it and rows of control, from "
        f"{number(seen.lowest[k])} to {number(seen.highest[k])}. {seen.trimmed:.2%} of all rows have a "
        f"chance below {seen.bound:g} of some arm.",
    )


def driver_plot(arm: Arm) -> go.Figure:
    """Return the features that drive the effect."""
    frame = arm.drivers
    figure = go.Figure(
        go.Bar(
            x=frame["importance"].tolist(),
            y=[plain(f) for f in frame["feature"]],
            orientation="h",
            marker={"color": COLOURS[0]},
            error_x={"type": "data", "array": (1.96 * frame["stderr"]).fillna(0).tolist()},
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(height=150 + 28 * len(frame))
    return _dress(
        figure,
        "What drives the effect",
        f"share of the variance of {plain(arm.judged[0].name)}'s effect that a feature takes part in",
        "",
        f"Permutation importance of {arm.judged[0].name}'s effect; the strongest is {frame['feature'][0]}.",
    )


def _line(figure: go.Figure, x: Any, y: Any, name: str, i: int, origin: bool = False) -> None:
    start = [0.0] if origin else []
    figure.add_scatter(
        x=[*start, *map(float, x)],
        y=[*start, *(float(v) if np.isfinite(v) else None for v in y)],
        mode="lines",
        name=plain(name),
        line={"color": COLOURS[i % 6], "dash": _DASHES[i % len(_DASHES)], "width": 2.2 if i == 0 else 1.4},
        hovertemplate="%{x:.4g}: %{y:.5g}",
    )


def _band(figure: go.Figure, band: Band, level: float, origin: bool = False) -> None:
    fine = np.isfinite(band.value) & np.isfinite(band.stderr)
    low, high = band.interval(level)
    start = [0.0] if origin else []
    _fill(figure, [*start, *band.share[fine]], [*start, *low[fine]], [*start, *high[fine]])


def _fill(figure: go.Figure, x: list[Any], low: list[Any], high: list[Any]) -> None:
    figure.add_scatter(
        x=[*map(float, x), *map(float, x[::-1])],
        y=[*map(float, high), *map(float, low[::-1])],
        fill="toself",
        fillcolor=COLOURS[0],
        opacity=0.18,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def _dress(figure: go.Figure, title: str, x: str, y: str, alt: str, percent: bool = False) -> go.Figure:
    figure.update_layout(title={"text": title}, meta={"alt": alt})
    figure.update_xaxes(title={"text": x})
    figure.update_yaxes(title={"text": plain(y)})
    if percent:
        figure.update_xaxes(tickformat=".0%", range=[0, 1.01])
    if figure.layout.height is None:
        figure.update_layout(height=360)
    return figure
