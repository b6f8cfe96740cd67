"""Figures of the reports."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from simlab.lab.markup import plain

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
        yaxis={"autorange": "reversed", "type": "category"},
        height=150 + 34 * len(names),
        meta={"alt": alt},
    )
    return figure
