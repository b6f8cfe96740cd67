"""Are items shown as often as their propensities say?"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from causal.rewards import positions
from simlab.log import Log

MIN_COUNT = 30
"""Times that an item is shown before its frequency is judged: below, the plug-in variance is too rough."""


@dataclass(frozen=True)
class Calibration:
    """The fit between logged propensities and what was shown.

    Attributes:
        z: for each (slot, item) shown at least `MIN_COUNT` times: (Σ 1[item]/p - rounds that could show it)
            over its standard error. Near N(0, 1) where the propensities are right.
        p_value: of the joint test, over all slots (Bonferroni); None where nothing can be tested.
        context_free: whether each item has one propensity at each slot throughout the log; then the joint
            test is Pearson's on counts.
        excess: for a context-free logger, how far the propensities of one slot sum above 1, at worst.
    """

    z: dict[tuple[int, int], float]
    p_value: float | None
    context_free: bool
    excess: float

    @property
    def worst_item(self) -> int:
        """The item that is furthest from what its propensity says."""
        return max(self.z, key=lambda key: abs(self.z[key]))[1]

    @property
    def worst_z(self) -> float:
        """The z-score of that item."""
        return max(self.z.values(), key=abs)


def calibrate(log: Log) -> Calibration | None:
    """Test E[1[item at slot] / p] = 1, which right propensities obey for each item that can be shown.

    Under the null the variance of a row's term is 1/p - 1, of which 1[item] (1/p)(1/p - 1) is an unbiased
    estimate; but rounds in which the item had a tiny propensity and was not shown leave no trace in it.
    They are the harmless reason for Σ 1[item]/p to fall short of the number of rounds. So what falls short,
    m, adds m (1/p_min - 1), as if those rounds had the smallest propensity that this slot has in the log.

    The joint test is Pearson's chi-square of counts for a context-free logger, and else the largest |z| with
    Bonferroni's correction for the number of items.

    Returns:
        None for slates without `slot_propensity`: the propensity of a whole slate says nothing of one item.
    """
    if log.slots > 1 and log.slot_propensity is None:
        return None
    chance = log.propensity.unsqueeze(1) if log.slots == 1 else log.slot_propensity
    assert chance is not None
    place = positions(log)
    z: dict[tuple[int, int], float] = {}
    tests: list[float] = []
    steady, excess = True, 0.0
    for slot in range(int(place.max()) + 1):
        column = 0 if log.slots == 1 else slot
        here = place[:, column] == slot
        if not bool(here.any()):
            continue
        item, p = log.slate[here, column], chance[here, column].double()
        allowed = None if log.candidates is None else log.candidates[here]
        scores = _scores(item, p, allowed, log.n_items)
        z.update({(slot, i): s for i, s in scores.items()})
        fixed = _fixed(item, p, log.n_items) if allowed is None else None
        if fixed is not None:
            excess = max(excess, float(fixed.sum()) - 1)
            test = _pearson(item, fixed)
        else:
            steady = False
            test = _largest(scores)
        if test is not None:
            tests.append(test)
    joint = min(1.0, len(tests) * min(tests)) if tests and z else None
    return Calibration(z, joint, steady, excess)


def _scores(
    item: Int[Tensor, " round"],
    p: Float[Tensor, " round"],
    allowed: Int[Tensor, "round cand"] | None,
    n_items: int,
) -> dict[int, float]:
    """Return z of each item that is shown often enough, the most frequent first."""
    count = torch.bincount(item, minlength=n_items)
    judged = count.argsort(descending=True, stable=True)[: int((count >= MIN_COUNT).sum())]
    total = torch.zeros(n_items, dtype=torch.float64, device=p.device).index_add_(0, item, 1 / p)
    variance = torch.zeros_like(total).index_add_(0, item, (1 / p) * (1 / p - 1))
    could = torch.full_like(total, len(item))
    if allowed is not None:
        could = torch.bincount(allowed[allowed >= 0], minlength=n_items).double()
    variance += (could - total).clamp(min=0) * (1 / p.min() - 1)
    out = {}
    for i in judged.tolist():
        off, spread = float(total[i] - could[i]), float(variance[i]) ** 0.5
        out[i] = off / spread if spread > 1e-9 else 0.0 if abs(off) < 1e-6 else float("inf") * off
    return out


def _largest(z: dict[int, float]) -> float | None:
    """Return the two-sided normal p-value of the largest |z|, times their number."""
    if not z:
        return None
    return min(1.0, 2 * len(z) * float(stats.norm.sf(max(abs(x) for x in z.values()))))


def _fixed(
    item: Int[Tensor, " round"], p: Float[Tensor, " round"], n_items: int
) -> Float[Tensor, " item"] | None:
    """Return the one propensity of each item, 0 where never shown, or None if they vary."""
    table = torch.zeros(n_items, dtype=torch.float64, device=p.device)
    table[item] = p
    return table if bool(((table[item] - p).abs() <= 1e-9 * p).all()) else None


def _pearson(item: Int[Tensor, " round"], p: Float[Tensor, " item"]) -> float | None:
    """Return Pearson's p-value of counts; rare items share a cell, with those never shown."""
    n = len(item)
    count = torch.bincount(item, minlength=len(p)).double()
    common: Bool[Tensor, " item"] = n * p >= 5  # Cochran's rule
    seen, wanted = count[common].tolist(), (n * p[common]).tolist()
    rest = n - sum(wanted)
    if rest >= 5:
        seen, wanted = [*seen, float(count[~common].sum())], [*wanted, rest]
    if len(seen) < 2 or n < MIN_COUNT:
        return None
    statistic = sum((s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True))
    return float(stats.chi2.sf(statistic, len(seen) - 1))
