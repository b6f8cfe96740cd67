"""Uplift and Qini curves, their areas, and uplift at k, from who was treated and what came of it.

One definition, with N the rows so far (best score first), T and C the sums of outcomes of treated and control
rows among them, and Nt, Nc their numbers:

    qini    Q = T - C · Nt / Nc         outcomes gained among the treated so far
    uplift  V = N · (T / Nt - C / Nc)   outcomes gained if all rows so far were treated

(0 for the mean of no rows.) The curve has a point at the end of each block of equal scores and straight lines
between, as in scikit-uplift 0.5.1, so the order of rows never matters. causalml 0.18 walks through ties in
the order of rows: on Hillstrom the AUUC of a constant score then runs from .41 to .58 over 200 row orders;
its mean is ½ and so is ours. `ties="expected"` gives the exact mean over all orders of tied rows, which
differs from the line by O(1/N).

These are differences of means, so they are for experiments. Under confounding, use doubly robust scores
(`scores.py`) with `rate.py` and `returns.py`.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from causal.targeting.measure import Measure, measure, table
from causal.targeting.ranks import Ranks, from_here
from causal.targeting.ties import expected_area, expected_uplift
from causal.uplift.contract import Trial
from simlab.errors import BadInput

Array = np.ndarray

KINDS = ("qini", "uplift")
SCALES = ("perfect", "no_harm", "end", "row")


@dataclass(frozen=True, eq=False)
class Ranked:
    """A trial in the order of a score; every curve reads it. Sorting is done once.

    Attributes:
        score: what ranks the rows.
        y: outcomes.
        treated: mass of each row in the treated mean; 0 where it was not treated as the score says.
        control: mass in the control mean.
        weight: how much of the population a row is.
        user: whose row it is, or None.
        ranks: the order.
        plain: whether all weights are 1 and every row is treated or control.
    """

    score: Num[Array, " round"]
    y: Float[Array, " round"]
    treated: Float[Array, " round"]
    control: Float[Array, " round"]
    weight: Float[Array, " round"]
    user: Int[Array, " round"] | None
    ranks: Ranks
    plain: bool

    @classmethod
    def of(cls, trial: Trial, score: Any, *, arm: Hashable | None = None) -> "Ranked":
        """Rank the rows of a trial.

        With two arms, or with `arm` named, that arm stands against control and the rows of other arms are
        left out. With several arms and none named the score is a policy: each row's pick is its best arm (the
        first of equals), rows are ranked by that arm's score, treated rows are those that got their pick, and
        rows that got another arm count for their place only.

        Where chances of arms differ between rows or, for a policy, between arms, rows weigh by
        (mean chance of the arm) / (the row's own chance), so that means are over the whole population.
        Without known chances those are the arms' shares.

        Args:
            trial: of two arms or more.
            score: [round], or [round treated] for several arms.
            arm: a label.

        Raises:
            BadInput: for a score of another length, that is not finite, an unknown arm, or no rows of an arm.
        """
        scores = table("score", score, len(trial))
        treated = len(trial.arms) - 1
        if arm is not None or treated == 1:
            number = 1 if arm is None else _number(trial, arm)
            if scores.shape[1] not in (1, treated):
                raise BadInput(f"score has {scores.shape[1]} columns, but there are {treated} treated arms")
            own = scores[:, number - 1 if scores.shape[1] > 1 else 0]
            if treated > 1:
                keep = np.flatnonzero((trial.arm == 0) | (trial.arm == number))
                trial, own = trial.rows(keep), own[keep]
            pick = np.full(len(trial), number)
        else:
            if scores.shape[1] != treated:
                raise BadInput(
                    f"score has {scores.shape[1]} columns, but a policy over {treated} arms has one each; "
                    "or name one arm"
                )
            pick, own = scores.argmax(1) + 1, scores.max(1)
        weight = np.ones(len(trial)) if trial.weight is None else trial.weight
        got, kept = (trial.arm == pick).astype(np.float64), (trial.arm == 0).astype(np.float64)
        factor = _balance(trial, pick, weight) if treated > 1 or trial.propensity is not None else 1.0
        made = cls(
            score=own,
            y=trial.y,
            treated=got * weight * factor,
            control=kept * weight * factor,
            weight=weight,
            user=trial.user,
            ranks=Ranks.of(own, weight),
            plain=bool((weight == 1).all() and ((got + kept) * factor == 1).all()),
        )
        for name in ("treated", "control"):
            if not getattr(made, name).any():
                raise BadInput(f"no row is {name}, so there is no uplift")
        return made

    @cached_property
    def columns(self) -> tuple[Array, Array, Array, Array]:
        """Outcomes, treated and control mass, and weight, in the order of the score."""
        ordered = self.ranks.ordered
        return ordered(self.y), ordered(self.treated), ordered(self.control), ordered(self.weight)

    def sums(self, values: Float[Array, " round"]) -> Float[Array, " block"]:
        """Return the sum of a column over each block of equal scores."""
        return self.ranks.sums(values)

    def by(self, score: Num[Array, " round"]) -> "Ranked":
        """Return the same rows in the order of another score."""
        return replace(self, score=score, ranks=Ranks.of(score, self.weight))


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of a curve, from (0, 0), with straight lines between.

    Attributes:
        x: rows so far, by weight.
        y: outcomes gained.
        kind: "qini" or "uplift".
    """

    x: Float[Array, " point"]
    y: Float[Array, " point"]
    kind: str

    @property
    def area(self) -> float:
        """The area under the curve, in rows times outcomes."""
        return float(np.trapezoid(self.y, self.x))


def curve(ranked: Ranked, kind: str = "qini") -> Curve:
    """Return the Qini or the uplift curve, a point at the end of each block of equal scores.

    Raises:
        BadInput: for another kind.
    """
    number, height, _ = _heights(ranked, kind)
    return Curve(np.append(0.0, number), np.append(0.0, height), kind)


def perfect(ranked: Ranked, kind: str = "qini") -> Curve:
    """Return the curve of a score that knows the outcomes, as scikit-uplift draws it.

    Qini: treated outcomes first, control outcomes last; any outcome. Uplift: 0 or 1 only.

    Raises:
        BadInput: for another kind, or an uplift curve of outcomes other than 0 and 1.
    """
    return curve(ranked.by(_oracle(ranked, kind)), kind)


def qini(ranked: Ranked, scale: str = "perfect", ties: str = "line") -> Measure:
    """Return the Qini coefficient: the area between the Qini curve and the straight line to its end.

    Args:
        ranked: a trial in the order of a score.
        scale: "perfect": over the same area of the perfect curve (scikit-uplift's `qini_auc_score`; Hillstrom
            .064434); "no_harm": over that of a perfect score if no effect were negative (its
            `negative_effect=False`); "end": over |the curve's end| · N, per share (causalml's `qini_score`,
            which divides a sum of N + 1 points by N + 1); "row": over N², outcomes gained a row.
        ties: "line", or "expected" over the orders of tied rows, for rows without weights.

    Raises:
        BadInput: for an unknown scale or ties, or a scale of 0.
    """
    return _area(ranked, "qini", scale, ties)


def auuc(ranked: Ranked, scale: str = "perfect", ties: str = "line") -> Measure:
    """Return the area under the uplift curve.

    Args:
        ranked: a trial in the order of a score.
        scale: "perfect": less the area under the straight line to its end, over the same of the perfect curve
            (scikit-uplift's `uplift_auc_score`; 0 for a random score); "end": the whole area over |the
            curve's end| · N (causalml's `auuc_score`, which divides a sum of N + 1 points by N + 1; ½ for a
            random score); "row": the whole area over N², outcomes gained a row.
        ties: "line", or "expected" over the orders of tied rows, for rows without weights.

    Raises:
        BadInput: for an unknown scale or ties, a scale of 0, or a perfect curve of outcomes other than 0 and
            1.
    """
    if scale == "no_harm":
        raise BadInput("scale no_harm is defined for the Qini curve only")
    return _area(ranked, "uplift", scale, ties)


def uplift_at(ranked: Ranked, k: float | int = 0.3, by: str = "overall", ties: str = "line") -> Measure:
    """Return the difference of means among the top k: what a treatment does to those a score treats first.

    A share of rows without weights is rounded down to whole rows, as in scikit-uplift. Where the last place
    falls among equal scores, each tied row counts by its chance of a place; `ties="expected"` gives the exact
    mean of the difference over the orders of tied rows. scikit-uplift takes tied rows from the end of the
    table.

    The standard error counts that the threshold moves: (k - in top) · (effect at the threshold - value) / k,
    with that effect from a window of rows around it.

    Args:
        ranked: a trial in the order of a score.
        k: a share in (0, 1], or a number of rows.
        by: "overall": the top k of all rows; "group": of the treated and of the control rows by themselves.
        ties: "line" or "expected" (overall, rows without weights).

    Raises:
        BadInput: for k out of range, unknown words, or a top without treated or control rows.
    """
    if by not in ("overall", "group"):
        raise BadInput(f"by is overall or group, not {by}")
    _check_ties(ranked, ties)
    if by == "group":
        if ties == "expected":
            raise BadInput("by group a top share is linear in tied rows, so ties are line")
        got, d_got = _top_mean(ranked, ranked.treated, k, "treated")
        kept, d_kept = _top_mean(ranked, ranked.control, k, "control")
        return measure(got - kept, d_got - d_kept, ranked.user, f"uplift at {k:g} by group")
    share, size = _size(k, ranked.weight, ranked.plain)
    part = top(ranked.ranks, ranked.weight, size)
    nt, nc = float(part @ ranked.treated), float(part @ ranked.control)
    if nt == 0 or nc == 0:
        raise BadInput(f"the top {k:g} holds no {'treated' if nt == 0 else 'control'} rows")
    up, down = float(part @ (ranked.treated * ranked.y)) / nt, float(part @ (ranked.control * ranked.y)) / nc
    lift = ranked.treated * (ranked.y - up) / nt - ranked.control * (ranked.y - down) / nc
    near = window(ranked.ranks, ranked.weight, share)
    there = _difference(ranked, near, up - down)
    edge = ranked.weight * (share - part) / (share * ranked.weight.sum()) * (there - (up - down))
    value = up - down if ties == "line" else expected_uplift(*_counts(ranked), round(size))
    return measure(value, part * lift + edge, ranked.user, f"uplift at {k:g}")


def top(ranks: Ranks, weight: Float[Array, " round"], size: float) -> Float[Array, " round"]:
    """Return each row's share in the top `size` by weight: 1, 0, or the same for all rows at the edge."""
    mass = ranks.sums(weight)
    before = np.cumsum(mass) - mass
    return ranks.back(np.clip((size - before) / mass, 0.0, 1.0))


def window(ranks: Ranks, weight: Float[Array, " round"], share: float) -> Float[Array, " round"]:
    """Return 1 for rows near a share of the ranking (½ N^(-1/5) of the smaller side to each side), else 0."""
    total = float(weight.sum())
    half = 0.5 * ranks.rows**-0.2 * min(share, 1 - share) * total
    mass = ranks.sums(weight)
    end = np.cumsum(mass)
    return ranks.back(
        ((end >= share * total - half) & (end - mass <= share * total + half)).astype(np.float64)
    )


def _difference(ranked: Ranked, part: Float[Array, " round"], otherwise: float) -> float:
    """Return the difference of means over some rows, or another number where an arm is not there."""
    nt, nc = float(part @ ranked.treated), float(part @ ranked.control)
    if nt == 0 or nc == 0:
        return otherwise
    return float(part @ (ranked.treated * ranked.y)) / nt - float(part @ (ranked.control * ranked.y)) / nc


def _top_mean(
    ranked: Ranked, mass: Float[Array, " round"], k: float | int, name: str
) -> tuple[float, Float[Array, " round"]]:
    """Return the mean outcome of the top k of one group, and its influences."""
    ranks = ranked.ranks.only(mass > 0)
    whole = bool((mass[mass > 0] == 1).all())
    share, size = _size(k, mass, whole)
    part = top(ranks, mass, size)
    below = float(part @ mass)
    if below == 0:
        raise BadInput(f"the top {k:g} holds no {name} rows")
    mean = float(part @ (mass * ranked.y)) / below
    near = window(ranks, mass, share) * mass
    there = float(near @ ranked.y) / float(near.sum()) if near.any() else mean
    return mean, mass * (part * (ranked.y - mean) + (share - part) * (there - mean)) / below


def _size(k: float | int, mass: Float[Array, " round"], whole: bool) -> tuple[float, float]:
    """Return (share, how much mass is in the top)."""
    total = float(mass.sum())
    if isinstance(k, int | np.integer) and not isinstance(k, bool):
        if not 0 < k <= total:
            raise BadInput(f"k is {k} rows, but there are {total:g}")
        return k / total, float(k)
    if not 0 < k <= 1:
        raise BadInput(f"k is {k:g}, but a share is in (0, 1]")
    return float(k), float(int(total * k)) if whole else total * k


def _heights(ranked: Ranked, kind: str) -> tuple[Array, Array, tuple[Array, ...]]:
    """Return N and the curve at the end of each block, and the curve's slopes in T, Nt, C, Nc, N."""
    if kind not in KINDS:
        raise BadInput(f"kind is {' or '.join(KINDS)}, not {kind}")
    y, treated, control, weight = ranked.columns
    blocks = ranked.ranks.blocks
    ty, t, cy, c, n = (np.cumsum(blocks(v)) for v in (treated * y, treated, control * y, control, weight))
    per_t = np.divide(1.0, t, out=np.zeros_like(t), where=t > 0)
    per_c = np.divide(1.0, c, out=np.zeros_like(c), where=c > 0)
    up, down = ty * per_t, cy * per_c
    if kind == "qini":
        slopes = (np.ones_like(t), -down, -t * per_c, down * t * per_c, np.zeros_like(t))
        return n, ty - down * t, slopes
    slopes = (n * per_t, -n * up * per_t, -n * per_c, n * down * per_c, up - down)
    return n, n * (up - down), slopes


def _under(ranked: Ranked, kind: str) -> tuple[float, Array, float, Array]:
    """Return the area under the curve and the curve's end, each with its influences w ∂/∂w."""
    number, height, slopes = _heights(ranked, kind)
    mass = np.diff(number, prepend=0.0)
    middle = 0.5 * (height + np.append(0.0, height[:-1]))
    step = 0.5 * (mass + np.append(mass[1:], 0.0))
    y, treated, control, weight = ranked.columns
    repeat = ranked.ranks.repeat
    ty, t, cy, c, n = (repeat(from_here(slope * step)) for slope in slopes)
    change = treated * (y * ty + t) + control * (y * cy + c) + weight * (n + repeat(middle))
    ty, t, cy, c, n = (slope[-1] for slope in slopes)
    end = ranked.treated * (ranked.y * ty + t) + ranked.control * (ranked.y * cy + c) + ranked.weight * n
    return float(middle @ mass), ranked.ranks.put(change), float(height[-1]), end


def _area(ranked: Ranked, kind: str, scale: str, ties: str) -> Measure:
    """Return an area under one of the scales."""
    if scale not in SCALES:
        raise BadInput(f"scale is {', '.join(SCALES)}, not {scale}")
    _check_ties(ranked, ties)
    area, d_area, end, d_end = _under(ranked, kind)
    if ties == "expected":
        area = expected_area(*_counts(ranked), kind)
    total, d_total = float(ranked.weight.sum()), ranked.weight
    line, d_line = total * end / 2, (total * d_end + end * d_total) / 2
    if kind == "qini" or scale == "perfect":
        area, d_area = area - line, d_area - d_line
    if scale == "row":
        below, d_below = total**2, 2 * total * d_total
    elif scale == "end":
        below, d_below = total * abs(end), 2 * np.sign(end) * d_line
    elif scale == "no_harm":
        below, d_below = total * end / 2 - end**2 / 2, d_line - end * d_end
    else:
        best = ranked.by(_oracle(ranked, kind))
        most, d_most, _, _ = _under(best, kind)
        below, d_below = most - line, d_most - d_line
    if below == 0:
        raise BadInput(f"the scale {scale} of the {kind} curve is 0, so nothing can be compared with it")
    return measure(area / below, (d_area - area / below * d_below) / below, ranked.user, f"{kind} ({scale})")


def _oracle(ranked: Ranked, kind: str) -> Num[Array, " round"]:
    """Return the score of the perfect curve."""
    treated, y = ranked.treated > 0, ranked.y
    known = treated | (ranked.control > 0)
    binary = bool(((y == 0) | (y == 1)).all())
    if kind == "qini":
        found = np.where(known, np.where(treated, y, -y), 0.0)
        return found.astype(np.int8) if binary else found
    if not binary:
        row = int(np.flatnonzero((y != 0) & (y != 1))[0])
        raise BadInput(
            f"column outcome, row {row}: a perfect uplift curve needs outcomes 0 and 1, not {y[row]:g}; "
            "take the scale end or row"
        )
    more = float(ranked.control @ y) > float(ranked.treated @ (1 - y))
    second = y == 1 if more else treated
    halves = np.where(known, 4 * (y == treated) + 2 * second, 3)  # a row of another arm stands in the middle
    return halves.astype(np.int8)


def _counts(ranked: Ranked) -> tuple[Array, Array, Array, Array]:
    """Return treated and control rows and their outcomes in each block."""
    t, c = ranked.treated, ranked.control
    return ranked.sums(t), ranked.sums(c), ranked.sums(t * ranked.y), ranked.sums(c * ranked.y)


def _check_ties(ranked: Ranked, ties: str) -> None:
    if ties not in ("line", "expected"):
        raise BadInput(f"ties are line or expected, not {ties}")
    if ties == "expected" and not ranked.plain:
        raise BadInput("ties expected is for rows without weights, each treated or control; take line")


def _number(trial: Trial, arm: Hashable) -> int:
    if arm not in trial.arms[1:]:
        raise BadInput(f"arm is {arm!r}, but the treated arms are {', '.join(map(repr, trial.arms[1:]))}")
    return trial.arms.index(arm)


def _balance(
    trial: Trial, pick: Int[Array, " round"], weight: Float[Array, " round"]
) -> Float[Array, " round"]:
    """Return (mean chance of the pick, or of control) / (the row's own chance) for rows that got it."""
    if trial.propensity is None:
        share = np.bincount(trial.arm, weight, len(trial.arms)) / weight.sum()
        chance = np.broadcast_to(share, (len(trial), len(share)))
    else:
        chance = trial.propensity
    every = np.arange(len(trial))
    own = chance[every, trial.arm]
    treated = float(np.average(chance[every, pick], weights=weight))
    control = float(np.average(chance[:, 0], weights=weight))
    factor: Array = np.where(trial.arm == 0, control, treated) / own
    return np.where(np.abs(factor - 1) < 1e-12, 1.0, factor)
