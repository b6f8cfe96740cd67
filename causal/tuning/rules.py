"""Ways to choose: Lepski's rule (SLOPE, or paired), the estimated mean squared error, cross-validation."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from causal.contract import Score, Scores, influence, stderr, value
from causal.intervals import interval
from causal.tuning.choice import Candidate, Choice, Lot
from simlab.errors import BadInput, nearest

TUCKER_LEE = math.sqrt(6) - 1
WIDTHS = ("student-t", "normal", "bernstein")
"""The kinds of interval that reach as far up as down."""


@dataclass(frozen=True)
class Slope:
    """Lepski's rule: go from the widest candidate to narrower ones until one disagrees with a wider one.

    The widest candidate is the least biased. A narrower one is taken as long as its distance to every wider
    one that was taken is no more than their widths allow; what is beyond has a bias that the data can see.
    The choice is within a constant of the best candidate's bias plus width. Nothing needs an unbiased
    estimator, nor the order of the list: candidates are sorted by width, the widest first, and of equal
    widths the later in the list first, as obp sorts them, so that of equal candidates the first is chosen.

    `rule="pairwise"`: candidate i is taken if |V_i - V_j| ≤ width_i + (√6 - 1) width_j for every j before it.
    `rule="intersection"`: it is taken if the intervals V_j ± 2 width_j, j ≤ i, still share a point.

    Args:
        delta: the error of each one-sided width. It is not divided by the number of candidates.
        width: how wide a candidate is: half of such an interval, one of `WIDTHS`, of level 1 - 2 delta.
            "student-t" is the standard error by the delta method times Student's quantile, so
            ratios and users are counted right; for plain means of independent rows it is obp's width.
        rule: "pairwise" or "intersection".

    Source: Su, Srinath and Krishnamurthy (2020), "Adaptive estimator selection for off-policy evaluation",
    ICML (intersection); Tucker and Lee (2021), "Improved estimator selection for off-policy evaluation"
    (pairwise).

    Differs: obp 0.5.7 calls the pairwise rule "slope", and keeps the tuned value in the object: on the next
    data set it tunes nothing.

    Raises:
        BadInput: for an error outside (0, .5), an unknown width or an unknown rule.
    """

    delta: float = 0.1
    width: str = "student-t"
    rule: str = "pairwise"

    name: ClassVar[str] = "SLOPE"

    def __post_init__(self) -> None:
        if not 0 < self.delta < 0.5:
            raise BadInput(f"delta is {self.delta}, but the error of a one-sided width is between 0 and .5")
        if self.width not in WIDTHS:
            raise BadInput(f"there is no width named {self.width}{nearest(self.width, WIDTHS)}")
        if self.rule not in ("pairwise", "intersection"):
            raise BadInput(f"there is no rule named {self.rule}; known are intersection, pairwise")

    def choose(self, lot: Lot) -> Choice:
        """Take candidates from wide to narrow; choose the last that agrees with all wider ones."""
        rows, widths = [], []
        for index in range(len(lot.estimators)):
            scores = lot.units(index)
            row = lot.candidate(index, scores)
            found = interval(scores, self.width, 1 - 2 * self.delta)
            widths.append(found.width / 2)
            rows.append(replace(row, low=found.low, high=found.high))
        order = np.argsort(widths, kind="stable")[::-1]
        values = np.array([row.value for row in rows])[order]
        wide = np.array(widths)[order]
        last = 0
        for i in range(1, len(order)):
            if not self._agrees(values[: i + 1], wide[: i + 1]):
                break
            last = i
        return Choice(tuple(rows), int(order[last]))

    def _agrees(self, values: NDArray[np.float64], wide: NDArray[np.float64]) -> bool:
        """Tell whether the last candidate agrees with those before it."""
        if self.rule == "pairwise":
            apart = np.abs(values[:-1] - values[-1])
            return bool((apart <= wide[-1] + TUCKER_LEE * wide[:-1]).all())
        return bool((values - 2 * wide).max() <= (values + 2 * wide).min())


@dataclass(frozen=True)
class Paired:
    """Lepski's rule with the noise of differences: what two candidates share on the same rows cancels.

    Sorted as in `Slope`. Candidate i is taken if |V_i - V_j| ≤ t · stderr(V_i - V_j) for every j before it,
    where stderr is of the paired difference (the influences are subtracted row by row) and t is Student's
    quantile of the error delta, two-sided, divided by the number of pairs. So with a chance of about
    1 - delta no candidate is left out whose mean is that of all wider ones. Two clips of one estimator differ
    in few rows: their difference is far less noisy than either, and a bias that SLOPE cannot see is seen.

    It keeps the influences of all candidates, 8 bytes a row and candidate. Published guarantees of SLOPE are
    for its own widths, not for this rule; `docs/ope-tuning.md` has both beside the best candidate.

    Args:
        delta: the error shared by all pairs.

    Source: the comparison is Lepski's, as in Su, Srinath and Krishnamurthy (2020); the paired width is ours.

    Raises:
        BadInput: for an error outside (0, 1).
    """

    delta: float = 0.1

    name: ClassVar[str] = "paired Lepski"

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise BadInput(f"delta is {self.delta}, but the error of a choice is between 0 and 1")

    def choose(self, lot: Lot) -> Choice:
        """Take candidates from wide to narrow; choose the last that agrees with all wider ones."""
        rows, changes = [], []
        for index in range(len(lot.estimators)):
            scores = lot.units(index)
            rows.append(lot.candidate(index, scores))
            changes.append(influence(scores))
        every = torch.stack(changes)
        n, pairs = every.shape[1], max(len(rows) * (len(rows) - 1) // 2, 1)
        t = float(stats.t.ppf(1 - self.delta / pairs / 2, n - 1))
        order = np.argsort([row.variance for row in rows], kind="stable")[::-1].tolist()
        values = torch.tensor([row.value for row in rows], dtype=torch.float64, device=every.device)
        last = 0
        for i in range(1, len(order)):
            wider = torch.tensor(order[:i], device=every.device)
            noise = (every[wider] - every[order[i]]).std(1) / math.sqrt(n)
            apart = (values[wider] - values[order[i]]).abs()
            # Candidates that differ by rounding alone have no noise between them, and agree.
            if bool((apart > t * noise + 1e-12 * values[wider].abs()).any()):
                break
            last = i
        half = [t * math.sqrt(row.variance) for row in rows]
        rows = [replace(r, low=r.value - h, high=r.value + h) for r, h in zip(rows, half, strict=True)]
        return Choice(tuple(rows), order[last])


BIASES = ("debiased", "direct", "weights", *WIDTHS)


@dataclass(frozen=True)
class EstimatedMSE:
    """Choose the smallest estimate of variance + bias²; bias is measured from an unbiased estimator.

    variance = Σ influence² / N². With d = V - V_unbiased, whose standard error comes from the same rows,
    the bias is one of

    - `"debiased"`: bias² = (d² - stderr(d)²)⁺, for d² alone counts the noise of d as bias.
    - `"direct"`: |d|. `use_bias_upper_bound=False` in obp.
    - `"weights"`: |d| + √(2 mean(w²) ln(2/δ) / N) + 2 max(w) ln(2/δ) / (3 N), the bound of obp (its default).
      The added term is the same for every candidate and is not in the reward's unit: it is right only where
      no reward differs from the model by more than 1. With large weights it drowns the variance, and the
      least biased candidate wins.
    - a kind of interval, one of `WIDTHS`: the farther end of such an interval of d of
      level 1 - δ. It is in the reward's unit, and vanishes where the candidate is the unbiased estimator.

    Args:
        bias: how the bias is estimated or bounded.
        delta: the error of a bound.

    Source: Su, Dimakopoulou, Krishnamurthy and Dudík (2020), "Doubly robust off-policy evaluation with
    shrinkage" (model selection; the direct bias estimate and its bound); Wang, Agarwal and Dudík (2017),
    "Optimal and adaptive off-policy evaluation in contextual bandits", ICML. The latter bounds the bias by
    the target's probability of actions that are switched off, which needs a range of rewards; this does not.

    Raises:
        BadInput: for an error outside (0, 1) or an unknown bias.
    """

    bias: str = "debiased"
    delta: float = 0.1

    name: ClassVar[str] = "estimated MSE"

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise BadInput(f"delta is {self.delta}, but the error of a bound is between 0 and 1")
        if self.bias not in BIASES:
            raise BadInput(f"there is no bias named {self.bias}{nearest(self.bias, BIASES)}")

    def choose(self, lot: Lot) -> Choice:
        """Estimate each candidate's mean squared error; choose the smallest, of equals the first."""
        middle = lot.unbiased_units()
        extra = self._weights(lot) if self.bias == "weights" else 0.0
        rows = []
        for index in range(len(lot.estimators)):
            scores = lot.units(index)
            row = lot.candidate(index, scores)
            bias = self._bias(minus(scores, middle)) + extra
            change = influence(scores)
            variance = float(change.square().mean()) / len(change)
            rows.append(replace(row, bias=bias, loss=variance + bias**2))
        return Choice(tuple(rows), _smallest(rows))

    def _bias(self, apart: Scores) -> float:
        distance = value(apart)
        if self.bias == "debiased":
            return math.sqrt(max(distance**2 - stderr(apart) ** 2, 0.0))
        if self.bias in WIDTHS:
            found = interval(apart, self.bias, 1 - self.delta)
            return max(abs(found.low), abs(found.high))
        return abs(distance)

    def _weights(self, lot: Lot) -> float:
        estimator, data = lot.unbiased()
        weight = getattr(data, estimator.leans) if estimator.leans else None
        if weight is None or weight.ndim != 1:
            raise BadInput(f"the bound by weights needs one weight a row, and {estimator.name} has none")
        n, odds = len(weight), math.log(2 / self.delta)
        return math.sqrt(2 * float(weight.square().mean()) * odds / n) + 2 * float(weight.max()) * odds / (
            3 * n
        )


@dataclass(frozen=True)
class CrossValidation:
    """Choose what is closest, on one part of the rows, to an unbiased estimator on the other part.

    The rows are split at random again and again; the loss of a split is (V(training rows) - V_unbiased(the
    other rows))². Where the parts are independent, its expectation is bias² + variances of both. They are but
    for what is read off the whole log: rows are scored once, so both parts share a reward model's folds and
    the weights of an estimator with `streams = False` (`LoggerWeightedIPS`). Training rows are the share v /
    (v + v_unbiased), v the candidate's variance: then both parts are equally noisy, and the expectation is
    bias² + 2 v + 2 v_unbiased on all rows; the last term is shared by all candidates. So cross-validation
    counts the variance double. All candidates meet the same splits.

    Args:
        splits: how many; at least 2.
        one_standard_error: add the standard error over splits to the loss, against candidates whose loss
            was lucky.

    Source: Cief, Kveton and Kompan (2025), "Cross-validated off-policy evaluation", AAAI.

    Differs: rows of one user stay on one side; all candidates meet the same random order of rows, where the
    authors' code draws anew for each.

    Raises:
        BadInput: for fewer than 2 splits.
    """

    splits: int = 10
    one_standard_error: bool = True

    name: ClassVar[str] = "cross-validation"

    def __post_init__(self) -> None:
        if self.splits < 2:
            raise BadInput(f"splits is {self.splits}, but a cross-validation needs at least 2")

    def choose(self, lot: Lot) -> Choice:
        """Average the loss of each candidate over the splits; choose the smallest, of equals the first."""
        middle = lot.unbiased_units()
        n = len(middle[0].numerator)
        if n < 2:
            raise BadInput(f"a split needs at least 2 rows or users, not {n}")
        noise = stderr(middle) ** 2
        generator = lot.seed.split("splits").torch()
        orders = [torch.randperm(n, generator=generator) for _ in range(self.splits)]
        rows = []
        for index in range(len(lot.estimators)):
            scores = lot.units(index)
            row = lot.candidate(index, scores)
            total = row.variance + noise
            size = min(max(int(n * row.variance / total), 1), n - 1) if total > 0 else n // 2
            every = np.array([self._loss(scores, middle, order, size) for order in orders])
            losses = every[np.isfinite(every)]
            if len(losses) < 2:
                raise BadInput(
                    f"{lot.labels[index]}: of {self.splits} splits {len(losses)} have weight in both parts; "
                    "give more splits, or tune by slope"
                )
            luck = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if self.one_standard_error else 0.0
            rows.append(replace(row, loss=float(losses.mean()) + luck))
        return Choice(tuple(rows), _smallest(rows))

    @staticmethod
    def _loss(scores: Scores, middle: Scores, order: Int[Tensor, " round"], size: int) -> float:
        order = order.to(scores[0].numerator.device)
        train, held = picked(scores, order[:size]), picked(middle, order[size:])
        if any(float(s.denominator.sum()) == 0 for s in (*train, *held)):
            return math.nan  # a ratio has no value on a part without any weight: such a split says nothing
        return (value(train) - value(held)) ** 2


def minus(a: Scores, b: Scores) -> Scores:
    """Return scores of V(a) - V(b) on the same rows."""
    return a + tuple(Score(-s.numerator, s.denominator) for s in b)


def picked(scores: Scores, rows: Int[Tensor, " some"]) -> Scores:
    """Return the scores of some rows."""
    return tuple(Score(s.numerator[rows], s.denominator[rows]) for s in scores)


def _smallest(rows: list[Candidate]) -> int:
    return min(range(len(rows)), key=lambda i: rows[i].loss)
