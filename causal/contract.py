"""The contract of an off-policy estimator, and everything it gets for keeping it.

Nearly every estimator is a ratio of two means over rows,

    V = mean(numerator) / mean(denominator),

or a sum of a few such ratios. So an estimator writes only its **score**: what each row adds above and below
the line. The influence of a row, (numerator - V · denominator) / mean(denominator), gives the standard
error (the delta method); every interval resamples scores; and scores are sums, so they stream.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.errors import BadInput


@dataclass(frozen=True)
class Score:
    """What each row adds above and below the line, float64."""

    numerator: Float[Tensor, " round"]
    denominator: Float[Tensor, " round"]


Scores = tuple[Score, ...]
"""Scores whose ratios are summed. Most estimators have one; SNDR has two."""


@dataclass(frozen=True)
class Rounds:
    """What an estimator may use of each logged round, float64.

    Attributes:
        reward: r.
        weight: w = target's probability of what was shown / the logger's. At least 0.
        q_logged: q̂(x, a): the modelled reward of what was shown, or None without a reward model.
        q_target: Σ_a π(a|x) q̂(x, a): the modelled reward of the target policy.
        group: cluster of each round (a user), for clustered intervals.
    """

    reward: Float[Tensor, " round"]
    weight: Float[Tensor, " round"]
    q_logged: Float[Tensor, " round"] | None = None
    q_target: Float[Tensor, " round"] | None = None
    group: Int[Tensor, " round"] | None = None

    def __len__(self) -> int:
        """Return N."""
        return self.reward.shape[0]

    def model(self) -> tuple[Float[Tensor, " round"], Float[Tensor, " round"]]:
        """Return (q_logged, q_target).

        Raises:
            BadInput: if there is no reward model.
        """
        if self.q_logged is None or self.q_target is None:
            raise BadInput("this estimator needs a reward model, and none was given")
        return self.q_logged, self.q_target


@dataclass(frozen=True)
class Interval:
    """Where the value is likely to be.

    Attributes:
        low: lower end, in the reward's unit; -inf where the data cannot say.
        high: upper end.
        kind: how it was made, one of `causal.intervals.KINDS`.
        level: the share of logs whose interval should hold the truth.
    """

    low: float
    high: float
    kind: str
    level: float

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low


@runtime_checkable
class Estimator(Protocol):
    """Write `score`; `causal.evaluation` does the rest.

    Attributes:
        name: the estimator's name in tables.
        needs_model: whether it uses `q_logged` and `q_target`.
        unbiased: whether its expectation, or its limit for a self-normalised form, is the target's value
            when the propensities are right.
    """

    name: ClassVar[str]
    needs_model: ClassVar[bool]
    unbiased: ClassVar[bool]

    def score(self, rounds: Rounds) -> Scores:
        """Score each round."""
        ...


def value(scores: Scores) -> float:
    """Return Σ mean(numerator) / mean(denominator).

    Raises:
        BadInput: if a denominator sums to zero: the target never does what was logged.
    """
    total = 0.0
    for score in scores:
        below = float(score.denominator.mean())
        if below == 0:
            raise BadInput("all weights are zero: the target policy never does what was logged")
        total += float(score.numerator.mean()) / below
    return total


def influence(scores: Scores) -> Float[Tensor, " round"]:
    """Return each row's influence on the value: Σ (numerator - V · denominator) / mean(denominator).

    Its mean is zero; its standard deviation over √N is the standard error.
    """
    out = torch.zeros_like(scores[0].numerator)
    for score in scores:
        below = score.denominator.mean()
        out += (score.numerator - score.numerator.mean() / below * score.denominator) / below
    return out


def stderr(scores: Scores) -> float:
    """Return the delta method's standard error of the value: the influence's deviation over √N.

    Raises:
        BadInput: with fewer than two rows, from which no spread can be told.
    """
    change = influence(scores)
    if len(change) < 2:
        raise BadInput(f"a standard error needs at least 2 rows, not {len(change)}")
    return float(change.std() / math.sqrt(len(change)))


def ones(like: Tensor) -> Tensor:
    """Return the denominator of a plain mean."""
    return torch.ones_like(like)
