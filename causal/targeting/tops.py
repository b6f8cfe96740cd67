"""Means over the top shares of a ranking, with the covariance that their moving threshold brings.

The sum over the top share u of a column Z, E[Z 1{in top}], has the influence

    1{in top} Z + (u - 1{in top}) ζ(u) - E[Z 1{in top}],

with ζ(u) the mean of Z at the threshold, from a window of rows around it: ½ N^(-1/5) of the smaller side to
each side. Inside the top, in the edge's block of ties and below it that is linear in Z, so squares sum from a
few cumulative sums; with users it is summed row by row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from causal.targeting.measure import column, covariance
from causal.targeting.ranks import Ranks
from simlab.errors import BadInput

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Tops:
    """Sums over the top of a ranking.

    Attributes:
        share: of the rows, by weight.
        value: E[Z 1{in top}] of each column.
        whole: E[Z] of each column.
        covariance: of (value, whole) at each share.
    """

    share: Float[Array, " point"]
    value: Float[Array, "point column"]
    whole: Float[Array, " column"]
    covariance: Float[Array, "point number number"]

    def stderr(self, point: int, slopes: Float[Array, " number"]) -> float:
        """Return the standard error of a number with these slopes in (value, whole)."""
        return float(np.sqrt(max(slopes @ self.covariance[point] @ slopes, 0.0)))


def tops(
    ranks: Ranks,
    columns: Float[Array, "round column"],
    weight: Float[Array, " round"],
    user: Int[Array, " round"] | None,
    share: Float[Array, " point"],
) -> Tops:
    """Return the sums over the top shares.

    Raises:
        BadInput: with fewer than two rows or users.
    """
    mass = ranks.ordered(weight)
    z = [np.ones(len(mass)), *(ranks.ordered(c) for c in columns.T)]
    first = _cumulative(ranks, [mass * v for v in z])
    total = float(first[-1, 0])
    whole = first[-1, 1:] / total
    width = len(z)
    pairs = [(i, j) for i in range(width) for j in range(i, width)]
    second = np.zeros((0, 0))
    if user is None:
        heavy = [mass * v for v in z]
        second = _cumulative(ranks, [heavy[i] * heavy[j] for i, j in pairs])
    who = None if user is None else user[ranks.order]
    table = None if user is None else np.stack(z, 1)
    value = np.zeros((len(share), width - 1))
    spread = np.zeros((len(share), 2 * (width - 1), 2 * (width - 1)))
    for point, u in enumerate(share):
        at = min(int(np.searchsorted(first[1:, 0], u * total * (1 - 1e-15))), len(ranks.end) - 1)
        part = min((u * total - first[at, 0]) / (first[at + 1, 0] - first[at, 0]), 1.0)
        top = first[at] + part * (first[at + 1] - first[at])
        value[point] = top[1:] / total
        there = _near(first, float(u), ranks.rows)
        maps = [_map(p, float(u), there, value[point], whole) for p in (1.0, part, 0.0)]
        if table is None:
            edges = second[[at, at + 1, -1]]
            for a, sums in zip(maps, np.diff(edges, axis=0, prepend=0.0), strict=True):
                moment = np.zeros((width, width))
                for (i, j), s in zip(pairs, sums, strict=True):
                    moment[i, j] = moment[j, i] = s
                spread[point] += a @ moment @ a.T / total**2
        else:
            rows = np.append(0, ranks.end)[[at, at + 1]]
            bits = np.split(table, rows)
            change = np.concatenate([b @ a.T for b, a in zip(bits, maps, strict=True)])
            spread[point] = covariance(change * mass[:, None] / total, who)
    if who is None:
        if len(mass) < 2:
            raise BadInput(f"a standard error needs at least 2 rows, not {len(mass)}")
        spread *= len(mass) / (len(mass) - 1)
    return Tops(share, value, whole, spread)


def shares(given: Any) -> Float[Array, " point"]:
    """Return shares as float64, .05, .1, … 1 by default.

    Raises:
        BadInput: out of (0, 1].
    """
    at = np.arange(1, 21) / 20 if given is None else column("shares", given)
    if ((at <= 0) | (at > 1)).any():
        row = int(np.flatnonzero((at <= 0) | (at > 1))[0])
        raise BadInput(f"column shares, row {row}: {at[row]:g} is no share in (0, 1]")
    return at


def _cumulative(ranks: Ranks, ordered: list[Float[Array, " kept"]]) -> Float[Array, "end n"]:
    """Return sums up to the end of each block, from 0."""
    found = np.zeros((len(ordered), len(ranks.end) + 1))
    for row, values in zip(found, ordered, strict=True):
        np.cumsum(ranks.blocks(values), out=row[1:])
    return found.T


def _near(first: Float[Array, "end n"], share: float, rows: int) -> Float[Array, " column"]:
    """Return the mean of each column at a share."""
    total = first[-1, 0]
    half = 0.5 * rows**-0.2 * min(share, 1 - share) * total
    low = max(int(np.searchsorted(first[:, 0], share * total - half, side="right")) - 1, 0)
    high = min(int(np.searchsorted(first[:, 0], share * total + half, side="left")), len(first) - 1)
    low = min(low, high - 1)
    inside = first[high] - first[low]
    found: Array = inside[1:] / inside[0]
    return found


def _map(part: float, share: float, there: Array, value: Array, whole: Array) -> Float[Array, "number n"]:
    """Return what takes (1, Z) to the influences on (value, whole)."""
    many = len(there)
    found = np.zeros((2 * many, many + 1))
    found[:many, 0] = (share - part) * there - value
    found[:many, 1:] = part * np.eye(many)
    found[many:, 0] = -whole
    found[many:, 1:] = np.eye(many)
    return found
