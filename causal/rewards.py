"""Reward models: what an item would bring at a position, from rows that the model was not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.rankers.contract import Ranker, Sizes
from simlab.seeds import Seed


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


def answers(log: Log) -> Float[Tensor, "round slot"]:
    """Return what each shown item brought: the reward of a single item, the clicks of a slate.

    Raises:
        BadInput: if a slate has no clicks, or its reward is not their sum, so that it cannot be told apart.
    """
    if log.slots == 1:
        return log.reward.double().unsqueeze(1)
    if log.click is None:
        raise BadInput("a reward model of slates learns from column click, and the log has none")
    click = log.click.double()
    other = (click.sum(1) - log.reward.double()).abs() > 1e-6 * (1 + log.reward.double().abs())
    if bool(other.any()):
        row = int(other.nonzero()[0])
        raise BadInput(
            f"column reward, row {row}: {float(log.reward[row])} is not the sum of the row's clicks, "
            "so an additive reward model does not apply"
        )
    return click


def positions(log: Log) -> Int[Tensor, "round slot"]:
    """Return the position on the page of each shown item, from 0."""
    if log.position is not None:
        return log.position.unsqueeze(1)
    return torch.arange(log.slots, device=log.slate.device).expand(len(log), -1)


@dataclass(frozen=True)
class RankerReward:
    """A reward model from any ranker: q̂ = sigmoid(logit) · c_k, for rewards of 0 and 1.

    A ranker's logit knows no position, so a factor for each position is fitted on the same rows: c_k = what
    was clicked at k over what the ranker says of what was shown there. That is a position-based click model
    whose examination is estimated by a ratio, and it makes the model right on average at each position.

    Args:
        make: builds an untrained ranker for the sizes of a log.
        fit_kwargs: further arguments of `simlab.training.fit.fit`, such as `settings`.
        past: H, how many items of history the ranker wants.

    Raises:
        BadInput: at `fit`, for rewards other than 0 and 1.
    """

    make: Callable[[Sizes], Ranker]
    fit_kwargs: dict[str, Any] = field(default_factory=dict)
    past: int = 0
    name: ClassVar[str] = "ranker"

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Train the ranker on the clicks, then fit the position factors."""
        from simlab.training.fit import fit

        seen = answers(log)
        if bool(((seen != 0) & (seen != 1)).any()):
            raise BadInput("a ranker's reward model needs rewards of 0 and 1")
        log = replace(log, click=seen.float(), reward=seen.sum(1).float())
        features = 0 if log.features is None else log.features.shape[1]
        ranker = self.make(Sizes(int(log.user.max()) + 1, log.n_items, features, slots))
        if ranker.past != self.past:
            raise BadInput(
                f"ranker {ranker.name} wants past={ranker.past}, but its reward model says {self.past}"
            )
        each = None if weight is None else weight.float().unsqueeze(1).expand_as(seen)
        fit(ranker, log, weight=each, seed=seed, **self.fit_kwargs)
        model = _FittedRanker(ranker.eval(), torch.ones(slots, dtype=torch.float64))
        place = positions(log).reshape(-1)
        shown = torch.zeros(slots, dtype=torch.float64)
        clicked = torch.zeros(slots, dtype=torch.float64)
        said = model.of_shown(log, self.past)
        by = torch.ones_like(said) if each is None else each.double()
        shown.index_add_(0, place, (by * said).reshape(-1))
        clicked.index_add_(0, place, (by * seen).reshape(-1))
        # A position that these rows never show keeps the factor of the whole.
        whole = clicked.sum() / shown.sum()
        return replace(model, factor=torch.where(shown > 0, clicked / shown, whole))


@dataclass(frozen=True, eq=False)
class _FittedRanker:
    ranker: Ranker
    factor: Float[Tensor, " slot"]

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Return sigmoid(logit) times the factor of the position."""
        with torch.no_grad():
            chance = self.ranker.score(context).double().sigmoid()
        return self.factor[position].unsqueeze(2) * chance.unsqueeze(1)

    def of_shown(self, log: Log, past: int) -> Float[Tensor, "round slot"]:
        """Return sigmoid(logit) of what was shown, a block of rows at a time."""
        context, out = log.context(past), []
        block = max(1, (1 << 22) // context.candidates.shape[1])
        with torch.no_grad():
            for start in range(0, len(log), block):
                rows = slice(start, start + block)
                part = context.rows(rows)
                out.append(self.ranker.score(part).gather(1, part.columns(log.slate[rows])))
        return torch.cat(out).double().sigmoid()


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
