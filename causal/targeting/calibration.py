"""Is the predicted effect the effect? Best linear predictor, group effects, calibration R².

All read scores Γ of the effect (`scores.py`) on rows that the prediction was not learned from.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from causal.targeting.measure import Array, Measure, column, measure, spread, users, weights
from causal.targeting.ranks import Ranks
from simlab.errors import BadInput

KINDS = ("classic", "HC0", "HC1", "HC3")


@dataclass(frozen=True)
class Blp:
    """The best linear predictor of the effect by a prediction: β1 + β2 (ŝ - E ŝ).

    Attributes:
        average: β1, the average effect.
        average_stderr: its standard error.
        slope: β2: 1 where the prediction is right, 0 where it says nothing about the effect.
        stderr: of the slope.
        kind: of the standard errors.
    """

    average: float
    average_stderr: float
    slope: float
    stderr: float
    kind: str

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return (low, high) of the slope by the normal distribution."""
        z = float(stats.norm.ppf((1 + level) / 2)) * self.stderr
        return self.slope - z, self.slope + z

    def pvalue(self, slope: float = 0.0) -> float:
        """Return the two-sided p-value of a slope: 0, no heterogeneity found; 1, well calibrated."""
        return float(2 * stats.norm.sf(abs(self.slope - slope) / self.stderr))


def blp(scores: Any, prediction: Any, *, weight: Any = None, user: Any = None, kind: str = "HC3") -> Blp:
    """Regress scores of the effect on the prediction.

    EconML's `DRTester.evaluate_blp` gives the same slope, with "classic" standard errors for two arms (they
    take the spread of Γ as equal in all rows, which it is not where chances or outcomes differ) and "HC1" for
    more.

    Args:
        scores: Γ of each row, [round].
        prediction: ŝ, the predicted effect, [round].
        weight: of each row; they count as sampling weights (weighted least squares).
        user: whose row it is: standard errors cluster by users ("HC0" to "HC3" only).
        kind: "classic", "HC0", "HC1" or "HC3".

    Raises:
        BadInput: for columns that do not fit, a prediction that is the same in all rows, or an unknown kind.

    Source: Chernozhukov, Demirer, Duflo and Fernández-Val 2025, "Fisher-Schultz lecture: generic machine
    learning inference on heterogeneous treatment effects in randomized experiments", Econometrica 93, section
    2; with Γ in place of the inverse-propensity weights.
    """
    gain, guess = column("scores", scores), column("prediction", prediction)
    guess = column("prediction", guess, len(gain))
    mass, who = weights(weight, len(gain)), users(user, len(gain))
    return _regress(gain, np.ones_like(gain), guess - _mean(guess, mass), mass, who, kind, None)


def blp_experiment(
    y: Any,
    treated: Any,
    propensity: Any,
    prediction: Any,
    *,
    baseline: Any = None,
    weight: Any = None,
    user: Any = None,
    kind: str = "HC3",
) -> Blp:
    """Regress outcomes on T - e and (T - e)(ŝ - E ŝ), weighted by 1 / (e (1 - e)).

    It is the paper's own regression. It needs no model of outcomes; a baseline prediction of y makes it
    sharper.

    Args:
        y: outcomes, [round].
        treated: 0 or 1, [round].
        propensity: e, the known chance of treatment: one number or [round].
        prediction: ŝ, the predicted effect, [round].
        baseline: predicted outcome without treatment, [round], as one more regressor beside the constant.
        weight: of each row.
        user: whose row it is.
        kind: "classic", "HC0", "HC1" or "HC3".

    Raises:
        BadInput: for columns that do not fit, a treatment other than 0 and 1, or chances out of (0, 1).

    Source: Chernozhukov et al. 2025, equation 2.2 (strategy A).
    """
    out = column("outcome", y)
    rows = len(out)
    got, guess = column("treated", treated, rows), column("prediction", prediction, rows)
    if not np.isin(got, (0, 1)).all():
        raise BadInput("column treated holds other values than 0 and 1")
    e = (
        np.full(rows, float(propensity))
        if np.ndim(propensity) == 0
        else column("propensity", propensity, rows)
    )
    if ((e <= 0) | (e >= 1)).any():
        row = int(np.flatnonzero((e <= 0) | (e >= 1))[0])
        raise BadInput(f"column propensity, row {row}: {e[row]:g} is no chance in (0, 1)")
    mass, who = weights(weight, rows), users(user, rows)
    more = [np.ones(rows)]
    if baseline is not None:
        more.append(column("baseline", baseline, rows))
    spare = got - e
    centred = guess - _mean(guess, mass)
    return _regress(out, spare, spare * centred, mass / (e * (1 - e)), who, kind, np.stack(more, 1))


@dataclass(frozen=True, eq=False)
class Groups:
    """Average effects of groups of rows by predicted effect, the lowest first.

    Attributes:
        share: of the rows in each group, by weight.
        prediction: mean predicted effect.
        effect: mean score.
        stderr: of the effect, clustered by user.
        difference: the last group's effect less the first's.
        average: the mean score over all rows.
        r2: calibration R² (`calibration_r2`).
    """

    share: Float[Array, " group"]
    prediction: Float[Array, " group"]
    effect: Float[Array, " group"]
    stderr: Float[Array, " group"]
    difference: Measure
    average: float
    r2: Measure

    def interval(self, level: float = 0.95) -> tuple[Float[Array, " group"], Float[Array, " group"]]:
        """Return (low, high) of each effect by the normal distribution."""
        z = float(stats.norm.ppf((1 + level) / 2)) * self.stderr
        return self.effect - z, self.effect + z


def group_effects(
    scores: Any, prediction: Any, groups: int = 5, *, cuts: Any = None, weight: Any = None, user: Any = None
) -> Groups:
    """Return the average effect of each group of rows by predicted effect.

    Without cuts, groups are equal shares of these rows, and a tied row at an edge counts for both sides by
    its chance: linear, so the exact mean over orders of ties. With cuts, a row belongs to [cut, next cut),
    the first and the last group are open, and nothing falls outside. EconML's `DRTester.evaluate_cal` counts
    a row that is on a cut twice and drops rows outside the training range. Standard errors take the groups as
    given, as EconML's do.

    Args:
        scores: Γ of each row, [round].
        prediction: predicted effect, [round].
        groups: how many equal shares; not read with cuts.
        cuts: inner edges, rising, such as quantiles of the training rows' predictions.
        weight: of each row.
        user: whose row it is.

    Raises:
        BadInput: for columns that do not fit, fewer than 2 groups, falling cuts, a group of fewer than 2 rows
            or users, or where all groups have the average effect.
    """
    gain = column("scores", scores)
    guess = column("prediction", prediction, len(gain))
    mass, who = weights(weight, len(gain)), users(user, len(gain))
    ranks = Ranks.of(-guess, mass)
    bits = _equal(ranks, mass, groups) if cuts is None else _cut(ranks, guess, cuts)
    return _Grouped(ranks, bits, gain, guess, mass, who).measure()


def calibration_r2(
    scores: Any, prediction: Any, groups: int = 4, *, cuts: Any = None, weight: Any = None, user: Any = None
) -> Measure:
    """Return 1 - Σ π |effect - prediction| / Σ π |effect - average|, over groups with shares π.

    1 where every group's effect is predicted, 0 or less where the average effect does as well. Noise in the
    effects moves it: both sums are of absolute values, so it is biased in small samples, and its standard
    error (the delta method, signs and groups taken as given) holds where no difference is near 0. Arguments
    as for `group_effects`.

    Raises:
        BadInput: as `group_effects`.

    Source: Dwivedi et al. 2020, "Stable discovery of interpretable subgroups via calibration in causal
    studies", as in EconML's `DRTester`, which adds up to more than all rows where some are on a cut.
    """
    return group_effects(scores, prediction, groups, cuts=cuts, weight=weight, user=user).r2


@dataclass(frozen=True, eq=False)
class _Bits:
    """Which share of which block of equal predictions belongs to which group."""

    block: Int[Array, " bit"]
    group: Int[Array, " bit"]
    share: Float[Array, " bit"]
    groups: int

    def by_group(self, per_block: Float[Array, " block"]) -> Float[Array, " group"]:
        return np.bincount(self.group, self.share * per_block[self.block], self.groups)

    def by_block(self, per_group: Float[Array, " group"], blocks: int) -> Float[Array, " block"]:
        return np.bincount(self.block, self.share * per_group[self.group], blocks)


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Groups of ordered rows and what they add to each number."""

    ranks: Ranks
    bits: _Bits
    gain: Array
    guess: Array
    mass: Array
    who: Array | None

    def measure(self) -> Groups:
        ranks, bits = self.ranks, self.bits
        gain, guess, mass = (ranks.ordered(v) for v in (self.gain, self.guess, self.mass))
        total = float(mass.sum())
        size = bits.by_group(ranks.blocks(mass))
        if (size <= 0).any():
            raise BadInput(f"group {int(np.flatnonzero(size <= 0)[0])} of the prediction has no rows")
        effect = bits.by_group(ranks.blocks(mass * gain)) / size
        own = bits.by_group(ranks.blocks(mass * guess)) / size
        whole = float(mass @ gain) / total

        def each(per_group: Array) -> Array:
            return ranks.repeat(bits.by_block(per_group, len(ranks.end)))

        ends = np.zeros(len(size))
        ends[0], ends[-1] = -1 / size[0], 1 / size[-1]
        gap = mass * (each(ends) * gain - each(ends * effect))
        miss, far = np.sign(effect - own), np.sign(effect - whole)
        up, below = float(size @ np.abs(effect - own)) / total, float(size @ np.abs(effect - whole)) / total
        if below == 0:
            raise BadInput("all groups have the average effect, so there is nothing to explain")
        lean = float(size @ far) / total
        d_up = mass * (each(miss) * (gain - guess) - up) / total
        d_below = mass * (each(far) * (gain - whole) - lean * (gain - whole) - below) / total
        r2 = -(d_up - up / below * d_below) / below
        return Groups(
            share=size / total,
            prediction=own,
            effect=effect,
            stderr=self._errors(gain, mass, size, effect),
            difference=measure(effect[-1] - effect[0], ranks.put(gap), self.who, "top less bottom group"),
            average=whole,
            r2=measure(1 - up / below, ranks.put(r2), self.who, "calibration R²"),
        )

    def _errors(self, gain: Array, mass: Array, size: Array, effect: Array) -> Float[Array, " group"]:
        """Return the standard error of each effect, from the rows or users of the group."""
        ranks, bits = self.ranks, self.bits
        found = np.zeros(len(size))
        if self.who is None:
            square = replace(bits, share=bits.share**2)
            m0, m1, m2 = (square.by_group(ranks.blocks(mass**2 * v)) for v in (gain**0, gain, gain**2))
            rows = np.bincount(bits.group, np.diff(ranks.end, prepend=0)[bits.block], bits.groups)
            if (rows < 2).any():
                raise BadInput(f"group {int(np.flatnonzero(rows < 2)[0])} has fewer than 2 rows")
            found = np.maximum(m2 - 2 * effect * m1 + effect**2 * m0, 0.0) * rows / (rows - 1)
            errors: Array = np.sqrt(found) / size
            return errors
        who = self.who[ranks.order]
        for g in range(len(size)):
            part = ranks.repeat(bits.by_block(np.eye(len(size))[g], len(ranks.end)))
            rows = np.flatnonzero(part)
            change = part[rows] * mass[rows] * (gain[rows] - effect[g]) / size[g]
            found[g] = spread(change, np.unique(who[rows], return_inverse=True)[1])
        return found


def _equal(ranks: Ranks, mass: Float[Array, " round"], groups: int) -> _Bits:
    """Cut the order into equal shares: each stretch between two edges or block ends is one bit."""
    if groups < 2 or groups > len(ranks.order):
        raise BadInput(f"groups is {groups}, but from 2 to {len(ranks.order)} can be made")
    own = ranks.sums(mass)
    end = np.cumsum(own)
    edges = end[-1] * np.arange(1, groups) / groups
    near = np.minimum(np.searchsorted(end, edges), len(end) - 1)
    edges = np.where(np.abs(end[near] - edges) <= 1e-12 * end[-1], end[near], edges)
    stops = np.unique(np.concatenate([end, edges]))
    starts = np.append(0.0, stops[:-1])
    block = np.searchsorted(end, starts, side="right")
    group = np.searchsorted(edges, starts, side="right")
    return _Bits(block, group, (stops - starts) / own[block], groups)


def _cut(ranks: Ranks, guess: Float[Array, " round"], cuts: Any) -> _Bits:
    edges = column("cuts", cuts)
    if (np.diff(edges) <= 0).any():
        raise BadInput(f"cuts must rise, and these are {edges.tolist()}")
    value = ranks.ordered(guess)[ranks.end - 1]
    group = np.searchsorted(edges, value, side="right")
    return _Bits(np.arange(len(value)), group, np.ones(len(value)), len(edges) + 1)


def _mean(values: Float[Array, " round"], mass: Float[Array, " round"]) -> float:
    return float(values @ mass / mass.sum())


def _regress(
    y: Array, first: Array, second: Array, mass: Array, who: Array | None, kind: str, more: Array | None
) -> Blp:
    """Return weighted least squares of y on two regressors and more."""
    if kind not in KINDS:
        raise BadInput(f"kind is {', '.join(KINDS)}, not {kind}")
    if kind == "classic" and who is not None:
        raise BadInput("classic standard errors do not cluster by user: take HC1 or HC3")
    keep = mass > 0
    x = np.stack([first, second], 1) if more is None else np.column_stack([first, second, more])
    x, y, mass, who = x[keep], y[keep], mass[keep], None if who is None else who[keep]
    n, width = x.shape
    root = np.sqrt(mass)[:, None]
    if n <= width or np.linalg.matrix_rank(root * x) < width:
        raise BadInput("the prediction is the same in all rows, so the effect cannot be regressed on it")
    inverse = np.linalg.inv(x.T @ (mass[:, None] * x))
    beta = inverse @ (x.T @ (mass * y))
    left = y - x @ beta
    if kind == "classic":
        cov = inverse * float(mass @ left**2) / (n - width)
    else:
        if kind == "HC3":
            left = left / (1 - mass * np.einsum("ni,ij,nj->n", x, inverse, x, optimize=True))
        each = (mass * left)[:, None] * x @ inverse
        many = n
        if who is not None:
            each = np.stack([np.bincount(who, c) for c in each.T], 1)
            many = int(np.count_nonzero(np.bincount(who)))
            if many < 2:
                raise BadInput(f"a standard error needs at least 2 users, not {many}")
        cov = each.T @ each
        if kind == "HC1":
            cov *= n / (n - width) if who is None else many / (many - 1) * (n - 1) / (n - width)
    error = [math.sqrt(float(v)) for v in np.diag(cov)[:2]]
    return Blp(float(beta[0]), error[0], float(beta[1]), error[1], kind)
