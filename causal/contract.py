"""The contract of an off-policy estimator, and everything it gets for keeping it.

Nearly every estimator is a ratio of two means over rows,

    V = mean(numerator) / mean(denominator),

or a sum of a few such ratios. So an estimator writes only its **score**: what each row adds above and below
the line. The influence of a row, (numerator - V · denominator) / mean(denominator), gives the standard
error (the delta method); every interval resamples scores; and scores are sums, so they stream.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from simlab.errors import BadInput


@dataclass(frozen=True)
class Score:
    """What each row adds above and below the line, float64."""

    numerator: Float[Tensor, " round"]
    denominator: Float[Tensor, " round"]


Scores = tuple[Score, ...]
"""Scores whose ratios are summed. Most estimators have one; SNDR has two."""


Own = TypeVar("Own", bound="Scored")
Data = TypeVar("Data", bound="Scored", contravariant=True)


class Scored(ABC):
    """Rows that estimators score: rounds, slates or trajectories; a frozen dataclass of tensors.

    Attributes:
        group: cluster of each row (a user), for clustered intervals.
    """

    group: Int[Tensor, " round"] | None

    words: ClassVar[Mapping[str, str]] = {}
    """What an optional field is, for the sentence that misses it."""

    @abstractmethod
    def __len__(self) -> int:
        """Return N, the number of rows."""

    def need(self, name: str) -> Tensor:
        """Return a field that an estimator cannot do without.

        Raises:
            BadInput: if it was not given.
        """
        found = getattr(self, name)
        if found is None:
            raise BadInput(f"this estimator needs {self.lacking(name)}")
        assert isinstance(found, Tensor)
        return found

    def lacking(self, name: str) -> str:
        """Return in words what keeps a field from being used; "" if nothing does."""
        return "" if getattr(self, name) is not None else f"{self.words.get(name, name)}, and none was given"

    def rows(self: Own, index: Tensor | slice) -> Own:
        """Return some rows only, in the order of the index."""
        assert is_dataclass(self)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[index] for k, v in values.items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class Rounds(Scored):
    """What an estimator may use of each logged round, float64.

    Attributes:
        reward: r.
        weight: w = target's probability of what was shown / the logger's. At least 0.
        q_logged: q̂(x, a): the modelled reward of what was shown, or None without a reward model.
        q_target: Σ_a π(a|x) q̂(x, a): the modelled reward of the target policy.
        group: cluster of each round (a user), for clustered intervals.
        logger: which of several loggers showed it, from 0.
        mixture: π(a|x) / Σ_l ρ_l π_l(a|x), with ρ_l the share of rounds of logger l: the weight under the
            mixture of all loggers.
        balance: a density ratio of target to logger, estimated by a classifier (`causal.balance`).
        embedding: p(e|x, target) / p(e|x, logger), the marginal weight of what the item is (`causal.mips`).
        robust_logged: q̂(x, a) of a model that was fitted for this target (`causal.mrdr`).
        robust_target: Σ_a π(a|x) q̂(x, a) of that model.

    Raises:
        BadInput: for columns of different lengths, or a weight below 0.
    """

    reward: Float[Tensor, " round"]
    weight: Float[Tensor, " round"]
    q_logged: Float[Tensor, " round"] | None = None
    q_target: Float[Tensor, " round"] | None = None
    group: Int[Tensor, " round"] | None = None
    logger: Int[Tensor, " round"] | None = None
    mixture: Float[Tensor, " round"] | None = None
    balance: Float[Tensor, " round"] | None = None
    embedding: Float[Tensor, " round"] | None = None
    robust_logged: Float[Tensor, " round"] | None = None
    robust_target: Float[Tensor, " round"] | None = None

    words: ClassVar[Mapping[str, str]] = {
        "q_logged": "a reward model",
        "q_target": "a reward model",
        "logger": "the logger of each round",
        "mixture": "the propensities of all loggers",
        "balance": "weights estimated by a classifier",
        "embedding": "what the items are (embeddings)",
        "robust_logged": "a reward model fitted for the target (MRDR)",
        "robust_target": "a reward model fitted for the target (MRDR)",
    }

    signed: ClassVar[bool] = False
    """Whether weights may be below 0."""

    def __post_init__(self) -> None:
        for f in fields(self):
            column = getattr(self, f.name)
            if isinstance(column, Tensor) and len(column) != len(self):
                raise BadInput(f"{f.name} has {len(column)} rows, but reward has {len(self)}")
        for name in () if self.signed else ("weight", "mixture", "balance", "embedding"):
            column = getattr(self, name)
            if column is not None and bool((column < 0).any()):
                row = int((column < 0).nonzero()[0])
                least = float(column[row])
                raise BadInput(f"{name}, row {row}: {least:g} is below 0, and a weight is a ratio of chances")

    def __len__(self) -> int:
        """Return N."""
        return self.reward.shape[0]

    def model(self) -> tuple[Float[Tensor, " round"], Float[Tensor, " round"]]:
        """Return (q_logged, q_target).

        Raises:
            BadInput: if there is no reward model.
        """
        return self.need("q_logged"), self.need("q_target")


@dataclass(frozen=True)
class SignedRounds(Rounds):
    """Rounds whose weights may be below 0, as those of a pseudo-inverse are: for diagnostics."""

    signed: ClassVar[bool] = True


@dataclass(frozen=True)
class Slates(Scored):
    """What an estimator may use of each logged slate, float64. A weight is target / logger.

    Attributes:
        reward: r_k, what each slot earned, times the weight of the slot if there is one; where only the
            slate's reward is known it stands at slot 0, and estimators that need slots refuse (`per_slot`).
        joint: w of the whole, ordered slate.
        marginal: w_k of the item at slot k, whatever else is shown.
        cascade: w_{1:k} of the items at slots up to k, in order.
        pseudo: 1ᵀ-row of the pseudo-inverse: q_πᵀ Γ⁺ 1_s (`causal.slates`).
        examined: Σ_j θ_j π(item at j) / Σ_j θ_j π_0(item at j), under a position-based model.
        document: P(item anywhere on the slate): target / logger.
        q_logged: Q̂_k(x, a_{1:k}): the modelled reward from slot k's item on.
        q_target: Σ_a π(a | x, a_{<k}) Q̂_k(x, a_{<k}, a).
        group: cluster of each slate (a user).
        per_slot: whether `reward` says what each slot earned.
        marginal_error: standard error of `marginal` where a distribution's slot marginals are themselves
            estimated; None where all are exact.
    """

    reward: Float[Tensor, "round slot"]
    joint: Float[Tensor, " round"] | None = None
    marginal: Float[Tensor, "round slot"] | None = None
    cascade: Float[Tensor, "round slot"] | None = None
    pseudo: Float[Tensor, " round"] | None = None
    examined: Float[Tensor, "round slot"] | None = None
    document: Float[Tensor, "round slot"] | None = None
    q_logged: Float[Tensor, "round slot"] | None = None
    q_target: Float[Tensor, "round slot"] | None = None
    group: Int[Tensor, " round"] | None = None
    per_slot: bool = True
    marginal_error: Float[Tensor, "round slot"] | None = None

    words: ClassVar[Mapping[str, str]] = {
        "joint": "the probability of whole slates",
        "marginal": "the probability of each item at its slot",
        "cascade": "the probability of each item given those above it",
        "pseudo": "the logger's probabilities of pairs of items at slots",
        "examined": "the logger's probability of each item at every slot, and examination probabilities",
        "document": "the logger's probability of each item at every slot",
        "q_logged": "a reward model of slates",
        "q_target": "a reward model of slates",
    }

    def __len__(self) -> int:
        """Return N."""
        return self.reward.shape[0]

    def lacking(self, name: str) -> str:
        """Return in words what keeps a field from being used: what weighs slots is of no use without r_k."""
        if name in OF_SLOTS and not self.per_slot:
            return _WHOLE
        return super().lacking(name)

    def slots(self) -> Float[Tensor, "round slot"]:
        """Return r_k.

        Raises:
            BadInput: if only the reward of whole slates is known.
        """
        if not self.per_slot:
            raise BadInput(f"this estimator needs {_WHOLE}")
        return self.reward


OF_SLOTS = ("marginal", "cascade", "examined", "document", "q_logged", "q_target")
"""Fields of `Slates` that weigh or model what each slot earned."""

_WHOLE = "what each slot earned, and the log has one reward a slate"


@dataclass(frozen=True)
class Trajectories(Scored):
    """What an estimator may use of each logged trajectory, float64, padded at the end.

    A trajectory that has ended stays in one more state, "finished", whose only action earns nothing. That is
    what padding means, so every sum over steps and every mean over rows may run over padding too.

    Attributes:
        reward: r_t; 0 where padded.
        ratio: ρ_t = π(a_t|s_t) / π_0(a_t|s_t); 1 where padded.
        valid: whether there was such a step; each row is true, then false.
        discount: γ.
        q_logged: Q̂_t(s_t, a_t); 0 where padded.
        v_target: V̂_t(s_t) = Σ_a π(a|s_t) Q̂_t(s_t, a); 0 where padded.
        state: d_π(s_t) / d_0(s_t), the marginal ratio of states at step t (or of the discounted occupancy);
            where padded, the ratio of having finished before step t.
        state_action: d_π(s_t, a_t) / d_0(s_t, a_t); where padded, as in `state`.
        group: cluster of each trajectory (a user).
        cut: whether it was still running after its last step, by a horizon or a time limit: what it would
            have earned later is no part of the value.
    """

    reward: Float[Tensor, "round step"]
    ratio: Float[Tensor, "round step"]
    valid: Bool[Tensor, "round step"]
    discount: float = 1.0
    q_logged: Float[Tensor, "round step"] | None = None
    v_target: Float[Tensor, "round step"] | None = None
    state: Float[Tensor, "round step"] | None = None
    state_action: Float[Tensor, "round step"] | None = None
    group: Int[Tensor, " round"] | None = None
    cut: Bool[Tensor, " round"] | None = None

    words: ClassVar[Mapping[str, str]] = {
        "q_logged": "a Q-model (fitted-Q evaluation)",
        "v_target": "a Q-model (fitted-Q evaluation)",
        "state": "the marginal ratio of states",
        "state_action": "the marginal ratio of states and actions",
    }

    def __len__(self) -> int:
        """Return N."""
        return self.reward.shape[0]

    @property
    def prefix(self) -> Float[Tensor, "round step"]:
        """Return w_{0:t} = Π_{j≤t} ρ_j; where padded, the weight of the whole trajectory."""
        return self.ratio.cumprod(1)

    @property
    def whole(self) -> Float[Tensor, " round"]:
        """Return the weight of the whole trajectory."""
        return self.ratio.prod(1)

    @property
    def by_state(self) -> Float[Tensor, "round step"]:
        """Return d_π(s_t) / d_0(s_t) · ρ_t: the ratio of states makes that of states and actions.

        Raises:
            BadInput: if the ratio of states was not given.
        """
        return self.need("state") * self.ratio

    @property
    def gammas(self) -> Float[Tensor, " step"]:
        """Return γ^t."""
        step = torch.arange(self.reward.shape[1], dtype=torch.float64, device=self.reward.device)
        return torch.as_tensor(self.discount, dtype=torch.float64, device=step.device) ** step

    def returns(self) -> Float[Tensor, " round"]:
        """Return Σ_t γ^t r_t."""
        return self.reward @ self.gammas

    def doubly_robust(self, weight: Float[Tensor, "round step"]) -> Float[Tensor, " round"]:
        """Return Σ_t γ^t [μ_t (r_t - Q̂_t) + μ_{t-1} V̂_t], with μ_{-1} = 1: the model, corrected by weights μ.

        Raises:
            BadInput: if there is no Q-model.
        """
        before = torch.cat([torch.ones_like(weight[:, :1]), weight[:, :-1]], dim=1)
        terms = weight * (self.reward - self.need("q_logged")) + before * self.need("v_target")
        return terms @ self.gammas


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
class Estimator(Protocol[Data]):
    """Write `score`; `causal.evaluation` does the rest. Data are `Rounds`, `Slates` or `Trajectories`.

    Attributes:
        name: the estimator's name in tables.
        needs: the optional fields of the data that it cannot do without.
        leans: the weights that it leans on, a field or property of the data, which diagnostics judge; "" for
            none (a method that believes its model).
        unbiased: whether its expectation, or its limit for a self-normalised form, is the target's value
            when the propensities are right (and what else its docstring asks for holds).
        streams: whether a row's score does not depend on the other rows.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    leans: ClassVar[str]
    unbiased: ClassVar[bool]
    streams: ClassVar[bool]

    def score(self, data: Data, /) -> Scores:
        """Score each row."""
        ...


MODEL = ("q_logged", "q_target")
"""What an estimator with a reward model needs."""


def possible(estimator: Estimator[Any], data: Scored) -> bool:
    """Tell whether the data have all that the estimator needs.

    Weights of slots count only where it is known what each slot earned (`Slates.per_slot`). An estimator that
    asks more of the data than to be there (replay: a uniform logger) has a method `suits(data) -> bool` too,
    and refuses in `score` what does not suit it. If it streams, its method `check_sums(weights)` refuses what
    shows in Σw, Σw² and max w of all rows alone.
    """
    if lacking(estimator, data):
        return False
    suits = getattr(estimator, "suits", None)
    return suits is None or bool(suits(data))


def lacking(estimator: Estimator[Any], data: Scored) -> str:
    """Return in words the first thing that the estimator needs and the data lack; "" if there is none."""
    return next(filter(None, map(data.lacking, estimator.needs)), "")


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


def check_level(level: float) -> None:
    """Refuse a level that is no coverage.

    Raises:
        BadInput: naming the value.
    """
    if not 0 < level < 1:
        raise BadInput(f"level is {level}, but a coverage is between 0 and 1")


def check_finite(scores: Scores) -> None:
    """Refuse scores that are not finite.

    Raises:
        BadInput: naming the first such row and its value.
    """
    for score in scores:
        for name, x in (("numerator", score.numerator), ("denominator", score.denominator)):
            wrong = ~x.isfinite()
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                raise BadInput(f"row {row}: the {name} of a score is {float(x[row])}, not a finite number")
