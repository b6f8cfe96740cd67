"""Confidence intervals, all made from scores.

A ratio's denominator varies from log to log as much as its numerator. So every interval here resamples,
reweighs or linearises the *scores*; none holds a denominator fixed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy import special, stats
from torch import Tensor

from causal.contract import Interval, Score, Scores, check_finite, check_level, influence, stderr, value
from causal.likelihood import likelihood_ends
from causal.sequences import EFFECTIVE, PLANNED, START, mixture
from causal.sums import BUCKETS, ScoreSums, columns, percentiles
from simlab.errors import BadInput, nearest
from simlab.seeds import Seed

_CELLS = 1 << 21
"""Bootstrap counts held as float64 at once: 16 MB."""
_KEPT = 1 << 25
"""Bootstrap counts that are kept for the next scores of as many rows: 32 MB as bytes."""


@dataclass(frozen=True)
class _How:
    """What kinds of interval may want to know."""

    level: float
    seed: Seed
    replicates: int
    spread: float | None
    planned: int


def interval(
    scores: Scores,
    kind: str = "student-t",
    level: float = 0.95,
    group: Int[Tensor, " round"] | None = None,
    *,
    seed: Seed = Seed(0),
    replicates: int = 1000,
    spread: float | None = None,
    planned: int = PLANNED,
) -> Interval:
    """Return a two-sided interval for the value of scores.

    - `normal`, `student-t`: the delta method, with the influence's standard error.
    - `bootstrap`: percentiles of resampled scores (Efron 1979).
    - `bca`: the same, corrected for bias and skewness (Efron 1987; Efron and Tibshirani 1993, equations
      14.10, 14.14 and 14.15, with the influence for the jackknife).
    - `empirical-likelihood`: the values of rows reweighed within reach of equal weights (Owen 1990; see
      `causal.likelihood`). Reach is the F quantile with 1 and N - 1 degrees of freedom, which is to
      chi-square as student-t is to normal. It never leaves what the rows can give.
    - `bernstein`: Maurer and Pontil (2009), "Empirical Bernstein bounds and sample variance penalization",
      theorem 4, at half the error for each side. It is a guarantee only for a plain mean whose scores lie in
      a range of known width `spread`. Without `spread` the observed range is used, and for a ratio the
      theorem is applied to the influence: then it is only a wide interval of the right shape.
    - `anytime`: the last of the asymptotic confidence sequence (`causal.sequences.asymptotic`), for logs
      that are looked at again as they grow; tightest at `planned` rows. Unbounded before
      `causal.sequences.START` units, where the sequence has not begun.
    - `cluster`: `student-t` over clusters; needs `group`.
    - `poisson`: the one-pass Poisson bootstrap over buckets of rows of `ScoreSums`.

    Where scores do not vary (two equal rows, or all rewards the same under self-normalisation) every kind but
    an unbounded one has no width: an interval knows only the rows it saw. Where one row has all the weight,
    the resampling and reweighing kinds are unbounded, and the delta method's have no width either.

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
        planned: for `anytime`, the number of units at which it is tightest; fixed before looking.

    Raises:
        BadInput: for an unknown kind, a level outside (0, 1), fewer than two units, a missing group, scores
            that are not finite numbers, or weights that are all zero.
    """
    if kind not in _MAKERS:
        raise BadInput(f"there is no interval named {kind}{nearest(kind, KINDS)}")
    check_level(level)
    if replicates < 2:
        raise BadInput(f"replicates is {replicates}, but a bootstrap needs at least 2")
    if planned < 2:
        raise BadInput(f"planned is {planned}, but a sequence is planned for at least 2 rows")
    if kind == "cluster" and group is None:
        raise BadInput("a cluster interval needs a group for each row, and none was given")
    check_finite(scores)
    if group is not None and len(group) != len(scores[0].numerator):
        raise BadInput(f"{len(scores[0].numerator)} rows of scores have a group of {len(group)}")
    units = scores if group is None else clustered(scores, group)
    if len(units[0].numerator) < 2:
        what = "row" if group is None else "cluster"
        raise BadInput(f"an interval needs at least 2 {what}s, not {len(units[0].numerator)}")
    low, high = _MAKERS[kind](units, _How(level, seed, replicates, spread, planned))
    return Interval(low, high, kind, level)


def clustered(scores: Scores, group: Int[Tensor, " round"]) -> Scores:
    """Sum scores within clusters: the value stays, and clusters become the independent units."""
    names, where = torch.unique(group, return_inverse=True)

    def total(x: Float[Tensor, " round"]) -> Float[Tensor, " cluster"]:
        return torch.zeros(len(names), dtype=x.dtype, device=x.device).index_add_(0, where, x)

    return tuple(Score(total(s.numerator), total(s.denominator)) for s in scores)


def merged(scores: Scores) -> Scores:
    """Add the numerators of scores that share a denominator: the same value, and what cancels is gone.

    The difference of a thing with itself is then exactly zero, not zero to rounding.
    """
    out: list[Score] = []
    for score in scores:
        for place, other in enumerate(out):
            if torch.equal(score.denominator, other.denominator):
                out[place] = Score(other.numerator + score.numerator, other.denominator)
                break
        else:
            out.append(score)
    return tuple(out)


def bootstrap_draws(scores: Scores, replicates: int, seed: Seed) -> Float[Tensor, " replicate"]:
    """Return the value of each of many samples of the rows with replacement; NaN where undefined.

    What is resampled is numerator - V · denominator: a constant reward then has no spread at all, not 1e-16.
    """
    out = resample(columns(centred(scores)), replicates, seed)
    return value(scores) + (out[:, 0::2] / out[:, 1::2]).sum(1)


def centred(scores: Scores) -> Scores:
    """Return numerator - V · denominator over denominator: ratios less their values."""
    return tuple(Score(s.numerator - value((s,)) * s.denominator, s.denominator) for s in scores)


def resample(
    x: Float[Tensor, "round column"], replicates: int, seed: Seed
) -> Float[Tensor, "replicate column"]:
    """Return the sums of the columns over many samples of the rows with replacement.

    Each sample is a row of multinomial counts, so a block of samples is one matrix product. Of more than
    `causal.sums.BUCKETS` rows, random buckets of one size (to a row) are resampled instead of rows: the
    spread is the same to .8 %, and the work no longer grows with rows times replicates. The counts hang on
    the number of rows and the seed alone and are kept, since the estimators of one evaluation share them.
    """
    if len(x) > BUCKETS:
        order = torch.randperm(len(x), generator=seed.split("buckets").torch())
        where = torch.empty_like(order).scatter_(0, order, torch.arange(len(x)) % BUCKETS)
        x = torch.zeros(BUCKETS, x.shape[1], dtype=torch.float64).index_add_(0, where, x)
    whole = len(x) * replicates <= _KEPT
    blocks = _kept(len(x), replicates, seed) if whole else _blocks(len(x), replicates, seed)
    return torch.cat([block.double() @ x for block in blocks])


@lru_cache(maxsize=2)
def _kept(n: int, replicates: int, seed: Seed) -> tuple[UInt8[Tensor, "replicate round"], ...]:
    return tuple(_blocks(n, replicates, seed))


def _blocks(n: int, replicates: int, seed: Seed) -> Iterator[UInt8[Tensor, "replicate round"]]:
    """Draw multinomial counts, in blocks of samples. A count of 256 has a chance below 1e-500."""
    random = seed.split("bootstrap").numpy()
    chunk = max(1, _CELLS // n)
    for start in range(0, replicates, chunk):
        size = min(chunk, replicates - start)
        picked = random.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        yield torch.from_numpy(counts.astype(np.uint8))


def from_draws(
    scores: Scores, kind: str, level: float, draws: Float[Tensor, " replicate"]
) -> tuple[float, float]:
    """Cut a `bootstrap`, `bca` or `poisson` interval from draws of the value.

    Args:
        scores: what was drawn from.
        kind: which of the three.
        level: the coverage wanted.
        draws: values of resamples; NaN where undefined.
    """
    low, high = (1 - level) / 2, (1 + level) / 2
    if kind == "bca":
        low, high = _corrected(scores, level, draws)
    cut = percentiles(draws, low, high, kind, level)
    return cut.low, cut.high


def _corrected(scores: Scores, level: float, draws: Float[Tensor, " replicate"]) -> tuple[float, float]:
    """Return the shares of the draws at which BCa cuts."""
    middle = value(scores)
    # Ties (to rounding: few distinct scores make many) and undefined draws count half on each side.
    apart = draws - middle
    undecided = (apart.abs() <= 1e-9 * apart.nan_to_num().abs().max()) | apart.isnan()
    below = (float(((apart < 0) & ~undecided).sum()) + float(undecided.sum()) / 2) / len(draws)
    edge = 0.5 / len(draws)
    z0 = float(special.ndtri(min(max(below, edge), 1 - edge)))
    change = influence(scores)
    power = float((change**2).sum()) ** 1.5
    acceleration = float((change**3).sum()) / (6 * power) if power > 0 else 0.0

    def share(z: float) -> float:
        bent = max(1 - acceleration * (z0 + z), 1e-3)
        return float(special.ndtr(z0 + (z0 + z) / bent))

    z = float(special.ndtri((1 + level) / 2))
    return share(-z), share(z)


def _around(middle: float, half: float) -> tuple[float, float]:
    return middle - half, middle + half


def _normal(scores: Scores, how: _How) -> tuple[float, float]:
    return _around(value(scores), float(special.ndtri((1 + how.level) / 2)) * stderr(scores))


def _quantile(scores: Scores, how: _How) -> float:
    return float(stats.t.ppf((1 + how.level) / 2, len(scores[0].numerator) - 1))


def _student(scores: Scores, how: _How) -> tuple[float, float]:
    return _around(value(scores), _quantile(scores, how) * stderr(scores))


def _bootstrap(scores: Scores, how: _How) -> tuple[float, float]:
    return from_draws(scores, "bootstrap", how.level, bootstrap_draws(scores, how.replicates, how.seed))


def _bca(scores: Scores, how: _How) -> tuple[float, float]:
    return from_draws(scores, "bca", how.level, bootstrap_draws(scores, how.replicates, how.seed))


def _likelihood(scores: Scores, how: _How) -> tuple[float, float]:
    value(scores)  # refuses weights that are all zero
    return likelihood_ends(scores, _quantile(scores, how) ** 2)


def _bernstein(scores: Scores, how: _How) -> tuple[float, float]:
    change = influence(scores)
    n = len(change)
    wide = float(change.max() - change.min()) if how.spread is None else how.spread
    odds = float(np.log(4 / (1 - how.level)))  # ln(2/δ) with δ half of the error, for each side
    half = (2 * float(change.var()) * odds / n) ** 0.5 + 7 * wide * odds / (3 * (n - 1))
    return _around(value(scores), half)


def _anytime(scores: Scores, how: _How) -> tuple[float, float]:
    middle, change = value(scores), influence(scores)
    n, square = len(change), float(change.square().sum())
    # Rows without any spread (no click yet) have none to go by, as in `causal.sequences.asymptotic`.
    carry = square**2 / float(change.pow(4).sum()) if square > 0 else 0.0
    if n < START or carry < EFFECTIVE:
        return -math.inf, math.inf
    rows = torch.tensor([n], dtype=torch.float64)
    return _around(middle, float(mixture(rows, how.level, how.planned)) * n**0.5 * stderr(scores))


def _poisson(scores: Scores, how: _How) -> tuple[float, float]:
    cut = ScoreSums.of(scores, seed=how.seed).interval("poisson", how.level, how.replicates)
    return cut.low, cut.high


_MAKERS: dict[str, Callable[[Scores, _How], tuple[float, float]]] = {
    "normal": _normal,
    "student-t": _student,
    "bootstrap": _bootstrap,
    "bca": _bca,
    "empirical-likelihood": _likelihood,
    "bernstein": _bernstein,
    "anytime": _anytime,
    "cluster": _student,
    "poisson": _poisson,
}
KINDS: tuple[str, ...] = tuple(_MAKERS)
"""The kinds of interval, as on the command line."""
