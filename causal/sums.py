"""Scores that stream: sums merge over files, workers and machines with the same answer to rounding."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import special, stats
from torch import Tensor

from causal.contract import Interval, Scores
from simlab.errors import BadInput
from simlab.seeds import Seed

_CELLS = 1 << 21
"""Poisson multipliers drawn at once: 16 MB as float64."""


@dataclass(frozen=True)
class ScoreSums:
    """What is left of scores when the rows are gone.

    The columns are each score's numerator and denominator in turn. The centred products merge by Chan, Golub
    and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample variances",
    equation 2.1. The replicates are a Poisson bootstrap (Chamandy, Muralidharan, Najmi and Naidu 2012,
    "Estimating uncertainty for massive data streams", section 3): replicate b counts a row m ~ Poisson(1)
    times, and m is keyed by the row's id, so it does not matter who has the row.

    Attributes:
        count: N, how many rows.
        sums: Σ of each column.
        cross: Σ (x - mean)(x - mean)ᵀ over the columns.
        replicates: Σ m x of each column, for each replicate.
        seed: of the multipliers; sums merge only with the same one.
    """

    count: int
    sums: Float[Tensor, " column"]
    cross: Float[Tensor, "column column"]
    replicates: Float[Tensor, "replicate column"]
    seed: Seed

    @classmethod
    def of(
        cls,
        scores: Scores,
        *,
        rows: Int[Tensor, " round"] | int = 0,
        replicates: int = 0,
        seed: Seed = Seed(0),
    ) -> "ScoreSums":
        """Add scores up.

        Args:
            scores: of some rows.
            rows: the id of each row in the whole log, or the first id of consecutive rows. Give the user's id
                instead, and the replicates resample users.
            replicates: how many Poisson-bootstrap replicates to carry; 0 for none.
            seed: of the multipliers.

        Raises:
            BadInput: if the number of row ids is not the number of rows.
        """
        x = columns(scores)
        n = len(x)
        ids = torch.arange(rows, rows + n) if isinstance(rows, int) else rows
        if len(ids) != n:
            raise BadInput(f"{n} rows of scores have {len(ids)} row ids")
        sums = x.sum(0)
        centred = x - sums / max(n, 1)
        drawn = torch.zeros(replicates, x.shape[1], dtype=torch.float64)
        chunk = max(1, _CELLS // max(replicates, 1))
        for start in range(0, n if replicates else 0, chunk):
            block = slice(start, start + chunk)
            drawn += multipliers(ids[block], replicates, seed).T @ x[block]
        return cls(n, sums, centred.T @ centred, drawn, seed)

    def merge(self, other: "ScoreSums") -> "ScoreSums":
        """Return the sums of the rows of both. No row may be in both.

        Raises:
            BadInput: if they are sums of different things.
        """
        if self.sums.shape != other.sums.shape:
            raise BadInput(
                f"sums of {len(self.sums)} and of {len(other.sums)} score columns cannot be merged"
            )
        if self.seed != other.seed or self.replicates.shape != other.replicates.shape:
            raise BadInput("sums merge only with the same seed and the same number of replicates")
        total = self.count + other.count
        apart = other.sums / max(other.count, 1) - self.sums / max(self.count, 1)
        between = torch.outer(apart, apart) * (self.count * other.count / max(total, 1))
        return ScoreSums(
            total,
            self.sums + other.sums,
            self.cross + other.cross + between,
            self.replicates + other.replicates,
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
        if bool((self.sums[1::2] == 0).any()):
            raise BadInput("all weights are zero: the target policy never does what was logged")
        return float((self.sums[0::2] / self.sums[1::2]).sum())

    def stderr(self) -> float:
        """Return the delta method's standard error, rows taken as independent.

        Raises:
            BadInput: with fewer than two rows.
        """
        if self.count < 2:
            raise BadInput(f"a standard error needs at least 2 rows, not {self.count}")
        self.value()
        gradient = torch.empty_like(self.sums)
        below = self.sums[1::2] / self.count
        gradient[0::2] = 1 / below
        gradient[1::2] = -self.sums[0::2] / self.sums[1::2] / below
        variance = float(gradient @ self.cross @ gradient) / (self.count - 1)
        return math.sqrt(max(variance, 0.0) / self.count)

    def draws(self) -> Float[Tensor, " replicate"]:
        """Return the value of each replicate; NaN where its denominator is zero."""
        return (self.replicates[:, 0::2] / self.replicates[:, 1::2]).sum(1)

    def interval(self, kind: str = "poisson", level: float = 0.95) -> Interval:
        """Return an interval from the sums alone.

        Args:
            kind: "normal", "student-t" or "poisson" (percentiles of the replicates).
            level: the coverage wanted.

        Raises:
            BadInput: for another kind, or for "poisson" without replicates.
        """
        if kind == "poisson":
            if not len(self.replicates):
                raise BadInput("a Poisson interval needs replicates, and these sums carry none")
            return percentiles(self.draws(), (1 - level) / 2, (1 + level) / 2, kind, level)
        if kind == "normal":
            z = float(special.ndtri((1 + level) / 2))
        elif kind == "student-t":
            z = float(stats.t.ppf((1 + level) / 2, self.count - 1))
        else:
            raise BadInput(f"sums give a normal, student-t or poisson interval, not {kind}")
        middle, half = self.value(), z * self.stderr()
        return Interval(middle - half, middle + half, kind, level)


def columns(scores: Scores) -> Float[Tensor, "round column"]:
    """Put numerators and denominators side by side, on the CPU, float64."""
    return torch.stack([x.double().cpu() for s in scores for x in (s.numerator, s.denominator)], dim=1)


def multipliers(rows: Int[Tensor, " round"], replicates: int, seed: Seed) -> Float[Tensor, "round replicate"]:
    """Draw Poisson(1) counts keyed by row id: invert the distribution function at a keyed uniform.

    The uniforms have 23 bits, so counts above 10 (chance 1e-8) are not drawn.
    """
    ids = rows.cpu()
    # One column would be keyed in another way than the first of many, so at least two are drawn.
    luck = seed.at(ids, torch.zeros_like(ids)).uniform("poisson bootstrap", max(replicates, 2))
    return torch.bucketize(luck[:, :replicates].contiguous(), _POISSON, right=True).double()


_POISSON = torch.from_numpy(stats.poisson.cdf(np.arange(11), 1.0)).float()


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
