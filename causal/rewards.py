"""Reward models: what an item would bring at a position, from rows that the model was not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from causal.folds import Folds, assign
from causal.pages import places
from simlab.adapters.reward import Reward, answers, positions
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed

__all__ = [
    "CrossFit",
    "Fitted",
    "RankerReward",
    "RewardModel",
    "answers",
    "assign",
    "cross_fit",
    "positions",
]


@runtime_checkable
class Fitted(Protocol):
    """A reward model that has seen its rows."""

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Return q̂(x, a, k) of every candidate a at each of the given positions k, float64."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """A recipe for a reward model. `fit` returns something new, so a recipe can be fitted once per fold."""

    @property
    def past(self) -> int:
        """H, how many items of history `predict` wants in its context."""
        ...

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Fit on all rows of a log.

        Args:
            log: the rows to learn from.
            slots: how many positions a page has.
            seed: of everything random.
            weight: of each row, or 1.
        """
        ...


@dataclass(frozen=True)
class RankerReward:
    """A recipe for `simlab.adapters.reward.Reward`: any ranker, with a factor or shift for each position.

    Args:
        make: builds an untrained ranker for the sizes of a log.
        fit_kwargs: further arguments of `simlab.training.fit.fit`, such as `settings`.
        past: H, how many items of history the ranker wants.
        link: "sigmoid" for rewards of 0 and 1, "identity" for any.

    Raises:
        BadInput: at `fit`, for rewards other than 0 and 1 with the sigmoid.
    """

    make: Callable[[Sizes], Ranker]
    fit_kwargs: dict[str, Any] = field(default_factory=dict)
    past: int = 0
    link: str = "sigmoid"
    name: ClassVar[str] = "ranker"

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Train the ranker on what was shown, then fit the position factors."""
        return Reward.fit(
            self._made, log, seed, slots=slots, weight=weight, link=self.link, **self.fit_kwargs
        )

    def _made(self, sizes: Sizes) -> Ranker:
        ranker = self.make(sizes)
        if ranker.past != self.past:
            raise BadInput(
                f"ranker {ranker.name} wants past={ranker.past}, but its reward model says {self.past}"
            )
        return ranker


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Reward models that each score only the rows that they have not seen.

    Attributes:
        models: one for each fold, fitted on the other folds, or on what came before it.
        fold: the fold of each round; -1 where no model scores it (the burn-in of time order).
        past: H, how many items of history the models want in their context.
        unseen: which scored rounds show an item that their model never met.
    """

    models: tuple[Fitted, ...]
    fold: Int[Tensor, " round"]
    past: int = 0
    unseen: Bool[Tensor, " round"] | None = None

    @property
    def scored(self) -> Bool[Tensor, " round"]:
        """The rounds that a model scores."""
        return self.fold >= 0

    def predict(
        self, rows: slice, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Return out-of-fold predictions; NaN for rounds of the burn-in.

        Args:
            rows: which rounds of the log these are.
            context: of these rounds.
            position: wanted for each of these rounds.
        """
        fold = self.fold[rows]
        shape = (*position.shape, context.candidates.shape[1])
        out = torch.full(shape, float("nan"), dtype=torch.float64, device=position.device)
        for number, model in enumerate(self.models):
            here = (fold == number).nonzero().squeeze(1)
            if len(here):
                out[here] = model.predict(context.rows(here), position[here])
        return out


def cross_fit(
    log: Log,
    model: RewardModel,
    folds: int = 3,
    seed: Seed = Seed(0),
    group: bool = True,
    *,
    slots: int | None = None,
    weight: Float[Tensor, " round"] | None = None,
    order: str = "random",
    time: Int[Tensor, " round"] | Float[Tensor, " round"] | None = None,
    fold: Int[Tensor, " round"] | None = None,
) -> CrossFit:
    """Fit a model once for each fold, on the other folds or on what came before it.

    In time order (`causal.folds.Folds`) a round is scored by a model of earlier rounds alone, so nothing of
    the future reaches the estimate. The price is a burn-in of 1 / (folds + 1) of the rounds, which no model
    scores: `causal.rounds.rounds` leaves them out. What an item that a fold's rounds never show is worth is
    up to the model: a scikit-learn design knows the context and features, a ranker its untrained item.

    Source: Chernozhukov et al. (2018), "Double/debiased machine learning", definition 3.1 (DML1's folds).

    Args:
        log: the rounds.
        model: the recipe.
        folds: how many; at least 2, or 1 in time order.
        seed: of the folds and of the fits.
        group: keep all rounds of a user in one fold; not in time order.
        slots: positions of a page; by default as many as the log shows.
        weight: of each round in the fits.
        order: "random" or "time".
        time: with order time, when each round was; by default the log's `step`.
        fold: the caller's own folds, as in `Folds.deal`.

    Raises:
        BadInput: if there are more folds than users (or rounds, or times), if nobody knows the time, if given
            folds leak, for a position off the page, or if all rounds that a fold learns from have weight 0.
    """
    dealt = Folds.deal(log, folds, seed.split("folds"), group, order=order, time=time, fold=fold)
    pages = places(log, slots)
    models = []
    for number in range(dealt.count):
        train = dealt.train(number)
        part = None if weight is None else weight[train]
        if part is not None and not float(part.sum()) > 0:
            raise BadInput(f"fold {number}: all {len(train)} rounds to learn from have weight 0")
        models.append(model.fit(log.rows(train), pages, seed.split(f"fold {number}"), part))
    return CrossFit(tuple(models), dealt.fold, model.past, dealt.unseen(log))
