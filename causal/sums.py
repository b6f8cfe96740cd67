"""Scores that stream: sums merge over files, workers and machines with the same answer to rounding."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy import special, stats
from torch import Tensor

from causal.contract import Interval, Scores, check_finite, check_level
from simlab.errors import BadInput
from simlab.seeds import Seed

BUCKETS = 1 << 13
"""Buckets of rows that the bootstrap resamples. The spread of G bucket sums tells a standard error to one
part in √(2G), that is .8 %; a thousand replicates tell it to 2.2 %."""


@dataclass(frozen=True)
class ScoreSums:
    """What is left of scores when the rows are gone.

    The columns are each score's numerator and denominator in turn. The centred products merge by Chan, Golub
    and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample variances",
    equation 2.1. Rows are dealt to buckets by a hash of their id, and a bucket keeps its sums: what a
    bootstrap resamples are buckets, in one pass over the rows and whoever has them. Give the user's id as row
    id, and all rows of a user share a bucket: then users are resampled.

    Attributes:
        count: N, how many rows.
        sums: Σ of each column.
        cross: Σ (x - mean)(x - mean)ᵀ over the columns.
        buckets: Σ of each column in each bucket; no bucket at all where no bootstrap is wanted.
        rows: how many rows each bucket has.
        seed: of the hash and of the multipliers; sums merge only with the same one.
    """

    count: int
    sums: Float[Tensor, " column"]
    cross: Float[Tensor, "column column"]
    buckets: Float[Tensor, "bucket column"]
    rows: Int[Tensor, " bucket"]
    seed: Seed

    @classmethod
    def of(
        cls,
        scores: Scores,
        *,
        rows: Int[Tensor, " round"] | int = 0,
        buckets: int = BUCKETS,
        seed: Seed = Seed(0),
    ) -> "ScoreSums":
        """Add scores up.

        Args:
            scores: of some rows.
            rows: the id of each row in the whole log, or the first id of consecutive rows. Give the user's id
                instead, and users are what is resampled.
            buckets: how many; 0 for none, and then there is no bootstrap.
            seed: of the hash.

        Raises:
            BadInput: if the number of row ids is not the number of rows, or a score is not finite.
        """
        check_finite(scores)
        x = columns(scores)
        n = len(x)
        ids = torch.arange(rows, rows + n) if isinstance(rows, int) else rows.cpu().long()
        if len(ids) != n:
            raise BadInput(f"{n} rows of scores have {len(ids)} row ids")
        sums = x.sum(0)
        centred = x - sums / max(n, 1)
        kept = torch.zeros(buckets, x.shape[1], dtype=torch.float64)
        number = torch.zeros(buckets, dtype=torch.int64)
        if buckets:
            where = dealt(ids, buckets, seed)
            kept.index_add_(0, where, x)
            number = torch.bincount(where, minlength=buckets)
        return cls(n, sums, centred.T @ centred, kept, number, seed)

    def merge(self, other: "ScoreSums") -> "ScoreSums":
        """Return the sums of the rows of both. No row may be in both.

        Raises:
            BadInput: if they are sums of different things.
        """
        if self.sums.shape != other.sums.shape:
            raise BadInput(
                f"sums of {len(self.sums)} and of {len(other.sums)} score columns cannot be merged"
            )
        if self.seed != other.seed or self.buckets.shape != other.buckets.shape:
            raise BadInput("sums merge only with the same seed and the same number of buckets")
        total = self.count + other.count
        apart = other.sums / max(other.count, 1) - self.sums / max(self.count, 1)
        between = torch.outer(apart, apart) * (self.count * other.count / max(total, 1))
        return ScoreSums(
            total,
            self.sums + other.sums,
            self.cross + other.cross + between,
            self.buckets + other.buckets,
            self.rows + other.rows,
            self.seed,
        )

    def __add__(self, other: "ScoreSums") -> "ScoreSums":
        """Merge."""
        return self.merge(other)

    def value(self) -> float:
        """Return Σ mean(numerator) / mean(denominator).

        Raises:
            BadInput: if a denominator sums to zero.
        """
        if not self.count:
            raise BadInput("there are no rows: nothing was added up")
        if bool((self.sums[1::2] == 0).any()):
            raise BadInput("all weights are zero: the target policy never does what was logged")
        return float((self.sums[0::2] / self.sums[1::2]).sum())

    def stderr(self, clustered: bool = False) -> float:
        """Return the delta method's standard error.

        Args:
            clustered: take buckets, and with user ids so users, as the independent units; else rows.

        Raises:
            BadInput: with fewer than two rows, or than two buckets that have any.
        """
        self.value()
        gradient = torch.empty_like(self.sums)
        below = self.sums[1::2] / self.count
        gradient[0::2] = 1 / below
        gradient[1::2] = -self.sums[0::2] / self.sums[1::2] / below
        if clustered:
            units = self.units()
            if units < 2:
                raise BadInput(f"a clustered standard error needs at least 2 buckets with rows, not {units}")
            pull = self.buckets @ gradient
            return math.sqrt(float(pull.square().sum()) * units / (units - 1)) / self.count
        if self.count < 2:
            raise BadInput(f"a standard error needs at least 2 rows, not {self.count}")
        variance = float(gradient @ self.cross @ gradient) / (self.count - 1)
        return math.sqrt(max(variance, 0.0) / self.count)

    def units(self) -> int:
        """Return how many buckets have rows."""
        return int((self.rows > 0).sum())

    def draws(self, replicates: int = 1000) -> Float[Tensor, " replicate"]:
        """Return the value of each replicate of a Poisson bootstrap; NaN where its denominator is zero.

        Replicate b counts a bucket m ~ Poisson(1) times (Chamandy, Muralidharan, Najmi and Naidu 2012,
        "Estimating uncertainty for massive data streams", section 3, with buckets for their rows). What is
        resampled is numerator - V · denominator: a constant reward has no spread at all.

        Args:
            replicates: how many.

        Raises:
            BadInput: without buckets.
        """
        if replicates < 2:
            raise BadInput(f"replicates is {replicates}, but a bootstrap needs at least 2")
        if not len(self.buckets):
            raise BadInput("a bootstrap needs buckets, and these sums carry none")
        middle = self.sums[0::2] / self.sums[1::2]
        x = self.buckets.clone()
        x[:, 0::2] -= middle * x[:, 1::2]
        here = (self.rows > 0).nonzero().squeeze(1)
        x = x[here]
        counts = multipliers(len(self.buckets), replicates, self.seed)
        if len(here) < len(counts):
            counts = counts[here]
        drawn = torch.zeros(replicates, x.shape[1], dtype=torch.float64)
        for block in torch.split(torch.arange(len(x)), 2048):
            drawn += counts[block].double().T @ x[block]
        return self.value() + (drawn[:, 0::2] / drawn[:, 1::2]).sum(1)

    def interval(self, kind: str = "poisson", level: float = 0.95, replicates: int = 1000) -> Interval:
        """Return an interval from the sums alone.

        Args:
            kind: "normal", "student-t", "cluster" (a t interval over buckets, and with user ids over users)
                or "poisson" (percentiles of the replicates).
            level: the coverage wanted.
            replicates: of the bootstrap.

        Raises:
            BadInput: for another kind, one that needs buckets where there are none, a level outside (0, 1) or
                fewer than two replicates.
        """
        check_level(level)
        if kind == "poisson":
            return percentiles(self.draws(replicates), (1 - level) / 2, (1 + level) / 2, kind, level)
        if kind not in ("normal", "student-t", "cluster"):
            raise BadInput(f"sums give a normal, student-t, cluster or poisson interval, not {kind}")
        clustered = kind == "cluster"
        half = self.stderr(clustered)
        if kind == "normal":
            half *= float(special.ndtri((1 + level) / 2))
        else:
            units = self.units() if clustered else self.count
            half *= float(stats.t.ppf((1 + level) / 2, units - 1))
        middle = self.value()
        return Interval(middle - half, middle + half, kind, level)


def columns(scores: Scores) -> Float[Tensor, "round column"]:
    """Put numerators and denominators side by side, on the CPU, float64."""
    return torch.stack([x.double().cpu() for s in scores for x in (s.numerator, s.denominator)], dim=1)


def dealt(ids: Int[Tensor, " round"], buckets: int, seed: Seed) -> Int[Tensor, " round"]:
    """Deal rows to buckets by a hash of their ids.

    A hash and not the remainder: rows in a steady pattern, such as the slots of slates, would meet the same
    bucket again and again.
    """
    luck = seed.at(ids, torch.zeros_like(ids)).uniform("bucket", 1).squeeze(1)
    return (luck.double() * buckets).long()


@lru_cache(maxsize=2)
def multipliers(buckets: int, replicates: int, seed: Seed) -> UInt8[Tensor, "bucket replicate"]:
    """Draw Poisson(1) counts keyed by bucket: invert the distribution function at a keyed uniform.

    All estimators of one evaluation share them, so they are kept: 8 MB for a thousand replicates. The
    uniforms are cut to 16 bits, so counts above 8 (chance 1e-6) are hardly drawn.
    """
    out = torch.empty(buckets, replicates, dtype=torch.uint8)
    for ids in torch.split(torch.arange(buckets), 2048):
        # One column would be keyed in another way than the first of many, so at least two are drawn.
        luck = seed.at(ids, torch.zeros_like(ids)).uniform("poisson bootstrap", max(replicates, 2))
        out[ids] = _COUNTS[(luck[:, :replicates] * _FINE).long()]
    return out


_FINE = 1 << 16
_COUNTS = torch.from_numpy(
    np.searchsorted(stats.poisson.cdf(np.arange(11), 1.0), (np.arange(_FINE) + 0.5) / _FINE).astype(np.uint8)
)


def percentiles(
    draws: Float[Tensor, " replicate"], low: float, high: float, kind: str, level: float
) -> Interval:
    """Cut an interval from bootstrap draws.

    A draw without any weight has no value. It counts as -inf for the lower end and as +inf for the upper
    one, so data that cannot bound the value give an unbounded interval, not a crash and not a guess.
    """
    x = draws.numpy()
    gone = np.isnan(x)
    lower = np.quantile(np.where(gone, -np.inf, x), low, method="lower")
    upper = np.quantile(np.where(gone, np.inf, x), high, method="higher")
    return Interval(float(lower), float(upper), kind, level)
