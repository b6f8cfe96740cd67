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
MAX_ITEMS = 100
"""Items of the joint test, the most frequent first: its cost grows with their square."""


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
    estimate. The joint statistic is the quadratic form of the sums in their estimated covariance, on the
    directions that vary; for a context-free logger it is Pearson's chi-square of counts instead.

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
        scores, total = _scores(item, p, allowed, log.n_items)
        z.update({(slot, i): s for i, s in scores.items()})
        fixed = _fixed(item, p, log.n_items) if allowed is None else None
        if fixed is not None:
            excess = max(excess, float(fixed.sum()) - 1)
            test = _pearson(item, fixed)
        else:
            steady = False
            test = _quadratic(item, p, allowed, total)
        if test is not None:
            tests.append(test)
    joint = min(1.0, len(tests) * min(tests)) if tests and z else None
    return Calibration(z, joint, steady, excess)


def _scores(
    item: Int[Tensor, " round"],
    p: Float[Tensor, " round"],
    allowed: Int[Tensor, "round cand"] | None,
    n_items: int,
) -> tuple[dict[int, float], list[int]]:
    """Return z by item, and the items that are judged, the most frequent first."""
    count = torch.bincount(item, minlength=n_items)
    judged = count.argsort(descending=True, stable=True)[: int((count >= MIN_COUNT).sum())]
    total = torch.zeros(n_items, dtype=torch.float64, device=p.device).index_add_(0, item, 1 / p)
    variance = torch.zeros_like(total).index_add_(0, item, (1 / p) * (1 / p - 1))
    could = torch.full_like(total, len(item))
    if allowed is not None:
        could = torch.bincount(allowed[allowed >= 0], minlength=n_items).double()
    out = {}
    for i in judged.tolist():
        off, spread = float(total[i] - could[i]), float(variance[i]) ** 0.5
        out[i] = off / spread if spread > 1e-9 else 0.0 if abs(off) < 1e-6 else float("inf") * off
    return out, judged[:MAX_ITEMS].tolist()


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


def _quadratic(
    item: Int[Tensor, " round"],
    p: Float[Tensor, " round"],
    allowed: Int[Tensor, "round cand"] | None,
    judged: list[int],
) -> float | None:
    """Return the p-value of dᵀ S⁺ d, d = Σ (1[item]/p - 1[could be shown]) and S = Σ of its squares."""
    if not judged:
        return None
    size = len(judged)
    names = torch.tensor(judged, device=item.device)
    d = torch.zeros(size, dtype=torch.float64, device=p.device)
    s = torch.zeros(size, size, dtype=torch.float64, device=p.device)
    for start in range(0, len(item), 1 << 14):
        rows = slice(start, start + (1 << 14))
        x = (item[rows].unsqueeze(1) == names).double() / p[rows].unsqueeze(1)
        if allowed is None:
            x -= 1
        else:
            x -= torch.stack([(allowed[rows] == i).any(1) for i in judged], dim=1).double()
        d += x.sum(0)
        s += x.T @ x
    values, vectors = torch.linalg.eigh(s)
    kept = values > 1e-9 * values.max()
    if not bool(kept.any()):
        return None
    along = vectors[:, kept].T @ d
    return float(stats.chi2.sf(float((along.square() / values[kept]).sum()), int(kept.sum())))
