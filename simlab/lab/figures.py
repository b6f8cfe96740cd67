"""Figures of the reports."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simlab.lab.markup import number, plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#2a78d6", "#d1632f", "#2b9a73", "#9464cf", "#b8901f", "#d0508c", "#7a8797")
"""Told apart by most colour-blind readers, and readable on a light and on a dark page."""


def forest(
    labels: Iterable[str],
    values: Iterable[float],
    lower: Iterable[float],
    upper: Iterable[float],
    *,
    title: str,
    axis: str,
    alt: str,
) -> "go.Figure":
    """Return estimates with their intervals, one a row, the first on top.

    Args:
        labels: names of the rows.
        values: the estimates.
        lower: ends of the intervals, NaN where there is none.
        upper: the other ends.
        title: of the figure.
        axis: what is measured, with its unit.
        alt: what the figure shows, in words.
    """
    import plotly.graph_objects as go

    names = [plain(label) for label in labels]
    middle, low, high = list(values), list(lower), list(upper)
    figure = go.Figure(
        go.Scatter(
            x=middle,
            y=names,
            mode="markers",
            marker={"size": 9, "color": COLOURS[0]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [u - v for u, v in zip(high, middle, strict=True)],
                "arrayminus": [v - w for v, w in zip(middle, low, strict=True)],
                "thickness": 1.8,
                "width": 5,
                "color": COLOURS[0],
            },
            customdata=[[w, u] for w, u in zip(low, high, strict=True)],
            hovertemplate="%{y}: %{x:.5g} (%{customdata[0]:.5g} to %{customdata[1]:.5g})<extra></extra>",
            showlegend=False,
        )
    )
    figure.update_layout(
        title={"text": plain(title)},
        xaxis={"title": {"text": plain(axis)}},
        yaxis={"range": [len(names) - 0.5, -0.5], "type": "category"},
        height=150 + 34 * len(names),
        meta={"alt": alt},
    )
    return figure


def mark(
    figure: "go.Figure", value: float, name: str, colour: str, low: float = nan, high: float = nan
) -> None:
    """Draw a known value across a forest, and its interval as a band where it has one.

    Args:
        figure: what `forest` returned.
        value: where to draw.
        name: what it is, for the legend.
        colour: of the line.
        low: end of the interval.
        high: the other end.
    """
    if isfinite(low) and isfinite(high):
        figure.add_vrect(x0=low, x1=high, fillcolor=colour, opacity=0.12, line_width=0, layer="below")
    figure.add_vline(x=value, line={"color": colour, "dash": "dash", "width": 1.8})
    # A line across the plot has no entry in the legend; this point, which is not drawn, gives it one.
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="lines",
        line={"color": colour, "dash": "dash"},
        name=f"{plain(name)} {number(value)}",
        showlegend=True,
    )
    figure.update_layout(height=figure.layout.height + 24)


def weight_histogram(weight: NDArray[np.float64]) -> "go.Figure":
    """Return how the importance weights of the rounds are spread, both axes logarithmic.

    Args:
        weight: of each round, at least 0. Zeros are counted in the words below the figure.
    """
    import plotly.graph_objects as go

    some = weight[weight > 0]
    low, high = np.log10(some.min()), np.log10(some.max())
    if high - low < 0.1:  # all alike: one bin of a visible width
        low, high = low - 0.5, high + 0.5
    count, edge = np.histogram(
        np.log10(some), bins=min(40, max(10, int(np.sqrt(len(some))))), range=(low, high)
    )
    middle, width = (edge[1:] + edge[:-1]) / 2, float(edge[1] - edge[0])
    whole = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ends = np.stack([10 ** edge[:-1], 10 ** edge[1:]], 1)
    figure = go.Figure(
        go.Bar(
            x=middle.tolist(),
            y=count.tolist(),
            width=width * 0.96,
            marker={"color": COLOURS[0]},
            customdata=ends.tolist(),
            hovertemplate="%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{y:,} rounds<extra></extra>",
        )
    )
    figure.add_vline(x=0.0, line={"color": COLOURS[6], "dash": "dot", "width": 1.5})
    none = int((weight == 0).sum())
    figure.update_layout(
        title={"text": "Weights of the rounds"},
        xaxis={
            "title": {"text": "weight: target's probability / logger's"},
            "tickvals": list(whole),
            "ticktext": [f"{10.0**k:g}" for k in whole],
        },
        yaxis={
            "title": {"text": "rounds"},
            "type": "log",
            "dtick": 1,
            "range": [np.log10(0.5), np.log10(2 * count.max())],
        },
        height=320,
        meta={
            "alt": f"How many rounds have which weight; dotted: weight 1. {none:,} of {len(weight):,} rounds "
            "have weight 0 and are not drawn: the target never does what they logged."
        },
    )
    return figure


def weight_share(weight: NDArray[np.float64]) -> "go.Figure":
    """Return which share of the weight the heaviest rounds hold.

    Args:
        weight: of each round, at least 0, not all zero.
    """
    import plotly.graph_objects as go

    n = len(weight)
    held = np.cumsum(np.sort(weight)[::-1]) / weight.sum()
    at = np.unique(np.geomspace(1, n, 300).round().astype(int))
    figure = go.Figure(
        [
            go.Scatter(
                x=at.tolist(),
                y=held[at - 1].tolist(),
                mode="lines",
                line={"color": COLOURS[0], "width": 2.2},
                name="this log",
                hovertemplate="heaviest %{x:,} rounds: %{y:.1%} of the weight<extra></extra>",
            ),
            go.Scatter(
                x=at.tolist(),
                y=(at / n).tolist(),
                mode="lines",
                line={"color": COLOURS[6], "dash": "dot", "width": 1.5},
                name="if all weighed the same",
                hoverinfo="skip",
            ),
        ]
    )
    half = int(np.searchsorted(held, 0.5)) + 1
    figure.update_layout(
        title={"text": "Who holds the weight"},
        xaxis={"title": {"text": "heaviest rounds"}, "type": "log", "dtick": 1},
        yaxis={"title": {"text": "share of the weight"}, "tickformat": ".0%", "range": [0, 1.02]},
        height=340,
        meta={
            "alt": f"Share of the weight that the heaviest rounds hold: the heaviest one {held[0]:.2%}; "
            f"half of it lies on {half:,} of {n:,} rounds."
        },
    )
    return figure


def calibration(z: Mapping[tuple[int, int], float], names: Sequence[str] = ()) -> "go.Figure":
    """Return whether items were shown as often as their logged propensities say.

    Args:
        z: for each (slot, item), how many standard errors it was shown more often than expected.
        names: of the items, by id; their ids where empty.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    slots = sorted({slot for slot, _ in z})
    for slot in slots:
        here = {
            item: value for (place, item), value in sorted(z.items()) if place == slot and isfinite(value)
        }
        labels = [plain(names[item] if names else item) for item in here]
        figure.add_scatter(
            x=list(here),
            y=list(here.values()),
            mode="markers",
            marker={"size": 6, "color": COLOURS[slot % len(COLOURS)]},
            customdata=labels,
            name=f"slot {slot}",
            hovertemplate="item %{customdata}: z = %{y:.2f}<extra></extra>",
            showlegend=len(slots) > 1,
        )
    figure.add_hrect(y0=-1.96, y1=1.96, fillcolor=COLOURS[6], opacity=0.12, line_width=0, layer="below")
    off = sum(abs(value) > 1.96 for value in z.values())
    figure.update_layout(
        title={"text": "Are items shown as often as their propensities say?"},
        xaxis={"title": {"text": "item"}},
        yaxis={"title": {"text": "standard errors too often"}},
        height=350,
        meta={
            "alt": f"{off} of {len(z)} pairs of slot and item lie outside the grey band; with right "
            f"propensities about {0.05 * len(z):.0f} would."
        },
    )
    return figure
