"""Reward models: what an item would bring at a position, from rows that the model was not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.adapters.reward import Reward, answers, positions
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed

__all__ = ["CrossFit", "Fitted", "RankerReward", "RewardModel", "answers", "assign", "cross_fit", "positions"]


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
        models: one for each fold, fitted on the other folds.
        fold: the fold of each round.
    """

    models: tuple[Fitted, ...]
    fold: Int[Tensor, " round"]

    def predict(
        self, rows: slice, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Return out-of-fold predictions.

        Args:
            rows: which rounds of the log these are.
            context: of these rounds.
            position: wanted for each of these rounds.
        """
        fold = self.fold[rows]
        shape = (*position.shape, context.candidates.shape[1])
        out = torch.empty(shape, dtype=torch.float64, device=position.device)
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
) -> CrossFit:
    """Fit a model once for each fold, on the other folds.

    Source: Chernozhukov et al. (2018), "Double/debiased machine learning", definition 3.1 (DML1's folds).

    Args:
        log: the rounds.
        model: the recipe.
        folds: how many; at least 2.
        seed: of the folds and of the fits.
        group: keep all rounds of a user in one fold.
        slots: positions of a page; by default as many as the log shows.
        weight: of each round in the fits.

    Raises:
        BadInput: if there are more folds than users (or rounds).
    """
    fold = assign(log, folds, seed.split("folds"), group)
    where = positions(log)
    pages = int(where.max()) + 1 if slots is None else slots
    models = []
    for number in range(folds):
        train = (fold != number).nonzero().squeeze(1)
        part = None if weight is None else weight[train]
        models.append(model.fit(log.rows(train), pages, seed.split(f"fold {number}"), part))
    return CrossFit(tuple(models), fold)


def assign(log: Log, folds: int, seed: Seed, group: bool) -> Int[Tensor, " round"]:
    """Deal users (or rounds) to folds at random, the busiest users first, so that folds are of like size."""
    if folds < 2:
        raise BadInput(f"folds is {folds}, but a model that scores rows it has not seen needs at least 2")
    key = log.user if group else torch.arange(len(log), device=log.user.device)
    names, where, count = torch.unique(key, return_inverse=True, return_counts=True)
    if len(names) < folds:
        what = "users" if group else "rounds"
        raise BadInput(f"the log has {len(names)} {what}, too few for {folds} folds")
    mixed = torch.randperm(len(names), generator=seed.torch()).to(count.device)
    order = mixed[count[mixed].argsort(descending=True, stable=True)]
    fold = torch.empty_like(order)
    fold[order] = torch.arange(len(names), device=order.device) % folds
    return fold[where]
