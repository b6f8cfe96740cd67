"""Confidence intervals, all made from scores.

A ratio's denominator varies from log to log as much as its numerator. So every interval here resamples or
linearises the *scores*; none holds a denominator fixed.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special, stats
from torch import Tensor

from causal.contract import Interval, Score, Scores, influence, stderr, value
from causal.sums import BUCKETS, ScoreSums, columns, percentiles
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed

_CELLS = 1 << 21
"""Bootstrap counts held at once: 16 MB as float64."""


def interval(
    scores: Scores,
    kind: str = "student-t",
    level: float = 0.95,
    group: Int[Tensor, " round"] | None = None,
    *,
    seed: Seed = Seed(0),
    replicates: int = 1000,
    spread: float | None = None,
) -> Interval:
    """Return a two-sided interval for the value of scores.

    - `normal`, `student-t`: the delta method, with the influence's standard error.
    - `bootstrap`: percentiles of resampled scores (Efron 1979).
    - `bca`: the same, corrected for bias and skewness (Efron 1987; Efron and Tibshirani 1993, equations
      14.10, 14.14 and 14.15, with the influence for the jackknife).
    - `bernstein`: Maurer and Pontil (2009), "Empirical Bernstein bounds and sample variance penalization",
      theorem 4, at half the error for each side. It is a guarantee only for a plain mean whose scores lie in
      a range of known width `spread`. Without `spread` the observed range is used, and for a ratio the
      theorem is applied to the influence: then it is only a wide interval of the right shape.
    - `cluster`: `student-t` over clusters; needs `group`.
    - `poisson`: the one-pass Poisson bootstrap over buckets of rows of `ScoreSums`.

    Args:
        scores: one row per round.
        kind: one of `KINDS`.
        level: the coverage wanted, between 0 and 1.
        group: cluster of each row. Where given, scores are summed within it first, so **every** kind takes
            clusters as its units.
        seed: of the bootstraps.
        replicates: of the bootstraps.
        spread: for `bernstein`, max - min of what a unit's influence can be; for IPS the largest possible
            weight times the range of the reward.

    Raises:
        BadInput: for an unknown kind, a level outside (0, 1), fewer than two units, or a missing group.
    """
    if kind not in _MAKERS:
        raise BadInput(f"there is no interval named {kind}{nearest(kind, KINDS)}")
    if not 0 < level < 1:
        raise BadInput(f"level is {level}, but a coverage is between 0 and 1")
    if replicates < 2:
        raise BadInput(f"replicates is {replicates}, but a bootstrap needs at least 2")
    if kind == "cluster" and group is None:
        raise BadInput("a cluster interval needs a group for each row, and none was given")
    units = scores if group is None else clustered(scores, group)
    if len(units[0].numerator) < 2:
        what = "row" if group is None else "cluster"
        raise BadInput(f"an interval needs at least 2 {what}s, not {len(units[0].numerator)}")
    low, high = _MAKERS[kind](units, level, seed, replicates, spread)
    return Interval(low, high, kind, level)


def clustered(scores: Scores, group: Int[Tensor, " round"]) -> Scores:
    """Sum scores within clusters: the value stays, and clusters become the independent units."""
    names, where = torch.unique(group, return_inverse=True)

    def total(x: Float[Tensor, " round"]) -> Float[Tensor, " cluster"]:
        return torch.zeros(len(names), dtype=x.dtype, device=x.device).index_add_(0, where, x)

    return tuple(Score(total(s.numerator), total(s.denominator)) for s in scores)


def bootstrap_draws(scores: Scores, replicates: int, seed: Seed) -> Float[Tensor, " replicate"]:
    """Return the value of each of many samples of the rows with replacement; NaN where undefined.

    Each sample is a row of multinomial counts, so a block of samples is one matrix product. What is
    resampled is numerator - V · denominator: a constant reward then has no spread at all, not 1e-16. Of more
    than `causal.sums.BUCKETS` rows, random buckets of one size (to a row) are resampled instead of rows: the
    spread is the same to .6 %, and the work no longer grows with rows times replicates.
    """
    centred = tuple(Score(s.numerator - value((s,)) * s.denominator, s.denominator) for s in scores)
    x = columns(centred)
    if len(x) > BUCKETS:
        order = torch.randperm(len(x), generator=seed.split("buckets").torch())
        where = torch.empty_like(order).scatter_(0, order, torch.arange(len(x)) % BUCKETS)
        x = torch.zeros(BUCKETS, x.shape[1], dtype=torch.float64).index_add_(0, where, x)
    n = len(x)
    random = seed.split("bootstrap").numpy()
    out = torch.empty(replicates, x.shape[1], dtype=torch.float64)
    chunk = max(1, _CELLS // n)
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        picked = random.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        out[start : start + size] = torch.from_numpy(counts.astype(np.float64)) @ x
    return value(scores) + (out[:, 0::2] / out[:, 1::2]).sum(1)


def _around(middle: float, half: float) -> tuple[float, float]:
    return middle - half, middle + half


def _normal(
    scores: Scores, level: float, seed: Seed, replicates: int, spread: float | None
) -> tuple[float, float]:
    return _around(value(scores), float(special.ndtri((1 + level) / 2)) * stderr(scores))


def _student(
    scores: Scores, level: float, seed: Seed, replicates: int, spread: float | None
) -> tuple[float, float]:
    t = float(stats.t.ppf((1 + level) / 2, len(scores[0].numerator) - 1))
    return _around(value(scores), t * stderr(scores))


def _bootstrap(
    scores: Scores, level: float, seed: Seed, replicates: int, spread: float | None
) -> tuple[float, float]:
    draws = bootstrap_draws(scores, replicates, seed)
    cut = percentiles(draws, (1 - level) / 2, (1 + level) / 2, "bootstrap", level)
    return cut.low, cut.high


def _bca(
    scores: Scores, level: float, seed: Seed, replicates: int, spread: float | None
) -> tuple[float, float]:
    draws = bootstrap_draws(scores, replicates, seed)
    middle = value(scores)
    # Ties (to rounding: few distinct scores make many) and undefined draws count half on each side.
    apart = draws - middle
    undecided = (apart.abs() <= 1e-9 * apart.nan_to_num().abs().max()) | apart.isnan()
    below = (float(((apart < 0) & ~undecided).sum()) + float(undecided.sum()) / 2) / replicates
    edge = 0.5 / replicates
    z0 = float(special.ndtri(min(max(below, edge), 1 - edge)))
    change = influence(scores)
    power = float((change**2).sum()) ** 1.5
    acceleration = float((change**3).sum()) / (6 * power) if power > 0 else 0.0

    def share(z: float) -> float:
        bent = max(1 - acceleration * (z0 + z), 1e-3)
        return float(special.ndtr(z0 + (z0 + z) / bent))

    z = float(special.ndtri((1 + level) / 2))
    cut = percentiles(draws, share(-z), share(z), "bca", level)
    return cut.low, cut.high


def _bernstein(
    scores: Scores, level: float, seed: Seed, replicates: int, spread: float | None
) -> tuple[float, float]:
    change = influence(scores)
    n = len(change)
    wide = float(change.max() - change.min()) if spread is None else spread
    odds = float(np.log(4 / (1 - level)))  # ln(2/δ) with δ half of the error, for each side
    half = (2 * float(change.var()) * odds / n) ** 0.5 + 7 * wide * odds / (3 * (n - 1))
    return _around(value(scores), half)


def _poisson(
    scores: Scores, level: float, seed: Seed, replicates: int, spread: float | None
) -> tuple[float, float]:
    cut = ScoreSums.of(scores, seed=seed).interval("poisson", level, replicates)
    return cut.low, cut.high


_Maker = Callable[[Scores, float, Seed, int, float | None], tuple[float, float]]
_MAKERS: dict[str, _Maker] = {
    "normal": _normal,
    "student-t": _student,
    "bootstrap": _bootstrap,
    "bca": _bca,
    "bernstein": _bernstein,
    "cluster": _student,
    "poisson": _poisson,
}
KINDS: tuple[str, ...] = tuple(_MAKERS)
"""The kinds of interval, as on the command line."""
