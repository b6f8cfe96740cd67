"""Q-models: what a slate is worth in a context, from any ranker or any scikit-learn regressor."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from simlab.adapters._descent import Descent, descend
from simlab.adapters.seeding import seeded
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers.contract import Interactions, Ranker, Sizes
from simlab.seeds import Seed

_CELLS = 1 << 22
"""Cells of a design matrix, or of scores, held at once: 32 MB."""


@runtime_checkable
class FittedQ(Protocol):
    """A Q-model that has seen its rows."""

    def value(self, context: Context, columns: Int[Tensor, "user pick slot"]) -> Float[Tensor, "user pick"]:
        """Return Q̂ of several slates of columns for each row, float64."""
        ...


@runtime_checkable
class QModel(Protocol):
    """A recipe. `fit` returns something new, so a recipe is fitted once per fold, step and iteration."""

    @property
    def past(self) -> int:
        """H, how many items of history it wants in its context."""
        ...

    def fit(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        target: Float[Tensor, " user"],
        sizes: Sizes,
        seed: Seed,
    ) -> FittedQ:
        """Fit E[target | context, slate].

        Args:
            context: of each row.
            columns: the slate that was logged.
            target: what it was worth, with all that came after.
            sizes: of the log.
            seed: of everything random.
        """
        ...


@dataclass(frozen=True)
class RankerQ:
    """Any trainable ranker as a Q-network: Q̂(x, slate) = b · Σ_k logit(x, a_k) / K + c.

    Least squares on standardised targets; b and c are the targets' spread and mean. Items of a slate add up.
    `simlab.adapters.q_network` is the same body inside an agent, with a learned scale and a target network.

    Args:
        make: builds an untrained ranker for the sizes of a log.
        past: H, how many items of history the ranker wants.
        how: of training.

    Raises:
        BadInput: at `fit`, for a family that is not trained by gradient, or that wants another `past`.
    """

    make: Callable[[Sizes], Ranker]
    past: int = 0
    how: Descent = field(default_factory=lambda: Descent(weight_decay=0.01))
    name: ClassVar[str] = "ranker"

    def fit(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        target: Float[Tensor, " user"],
        sizes: Sizes,
        seed: Seed,
    ) -> FittedQ:
        """Train a new ranker on what was shown."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed.split("ranker").value)
            ranker = self.make(sizes)
        if not ranker.trainable:
            raise BadInput(f"ranker {ranker.name} counts clicks, so it learns no values")
        if ranker.past != self.past:
            raise BadInput(f"ranker {ranker.name} wants past={ranker.past}, but its Q-model says {self.past}")
        middle, spread = float(target.mean()), float(target.std(correction=0)) or 1.0
        wanted = ((target - middle) / spread).float()
        shown = context.slate(columns)
        seen = replace(context, candidates=shown, mask=torch.ones_like(shown, dtype=torch.bool))
        if context.popularity is not None:
            seen = replace(seen, popularity=context.popularity.gather(1, columns))
        train, held = (x.to(target.device) for x in self.how.split(len(target), seed))
        weight = torch.ones(len(target), device=target.device)
        ranker.prepare(_shown(context.user, shown, wanted, train))

        def loss(rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
            return (ranker.score(seen.rows(rows)).mean(1) - wanted[rows]).square()

        descend(ranker, loss, weight, train, held, self.how, seed)
        return _FittedRanker(ranker, spread, middle)


def _shown(
    user: Int[Tensor, " user"],
    shown: Int[Tensor, "user slot"],
    target: Float[Tensor, " user"],
    rows: Int[Tensor, " row"],
) -> Interactions:
    """Return the rows as a ranker's `prepare` wants them: flat, by user, in the log's order."""
    rows = rows.sort().values
    rows = rows[user[rows].argsort(stable=True)]
    slots = shown.shape[1]
    value = target[rows].repeat_interleave(slots)
    return Interactions(
        user=user[rows].repeat_interleave(slots),
        item=shown[rows].reshape(-1),
        target=value,
        weight=torch.ones_like(value),
    )


@dataclass(frozen=True, eq=False)
class _FittedRanker:
    ranker: Ranker
    spread: float
    middle: float

    def value(self, context: Context, columns: Int[Tensor, "user pick slot"]) -> Float[Tensor, "user pick"]:
        """Score every candidate once, and add up each slate."""
        users, picks, slots = columns.shape
        block = max(1, _CELLS // max(context.candidates.shape[1], picks * slots))
        out = []
        with torch.no_grad():
            for rows in torch.split(torch.arange(users, device=columns.device), block):
                logit = self.ranker.score(context.rows(rows)).double()
                each = logit.gather(1, columns[rows].reshape(len(rows), -1))
                out.append(each.reshape(len(rows), picks, slots).mean(2))
        return torch.cat(out) * self.spread + self.middle


def known(context: Context) -> NDArray[np.float64]:
    """Return what a context says in numbers: its features, and its categories as they are."""
    parts = [context.features]
    if context.categories is not None:
        parts.append(context.categories)
    return torch.cat([x.double().cpu() for x in parts], dim=1).numpy()


def check_regresses(estimator: Any) -> None:
    """Refuse a scikit-learn estimator whose `predict` returns labels.

    Raises:
        BadInput: naming its class.
    """
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector

    for test, what in (
        (is_classifier, "a classifier"),
        (is_clusterer, "a clusterer"),
        (is_outlier_detector, "a detector of outliers"),
    ):
        if test(estimator):
            raise BadInput(
                "what is still to come is a sum of rewards, so its model is a regressor, and "
                f"{type(estimator).__name__} is {what}"
            )


@dataclass(frozen=True)
class SklearnQ:
    """Any scikit-learn regressor on [context, for each slot: one-hot item, item features of the catalogue].

    The one-hot design is dense: for catalogues of thousands of items use `RankerQ`.

    Args:
        estimator: it is cloned, never changed.
        catalog: the items, to use their features.
        state: turns a context into numbers, [user column]; by default features and categories.
        past: H, how many items of history `state` wants in the context.

    Raises:
        BadInput: for a classifier: what is still to come is a sum of rewards.
    """

    estimator: Any
    catalog: Catalog | None = None
    state: Callable[[Context], NDArray[np.float64]] = known
    past: int = 0
    name: ClassVar[str] = "sklearn"

    def __post_init__(self) -> None:
        check_regresses(self.estimator)

    def fit(
        self,
        context: Context,
        columns: Int[Tensor, "user slot"],
        target: Float[Tensor, " user"],
        sizes: Sizes,
        seed: Seed,
    ) -> FittedQ:
        """Fit a clone."""
        model = seeded(self.estimator, seed.value)
        fitted = _FittedSklearn(model, self.state, self.catalog, sizes.n_items)
        x = fitted.design(self.state(context), context.slate(columns).cpu().numpy())
        model.fit(x, target.cpu().numpy())
        return fitted


@dataclass(frozen=True, eq=False)
class _FittedSklearn:
    model: Any
    state: Callable[[Context], NDArray[np.float64]]
    catalog: Catalog | None
    n_items: int

    def design(self, state: NDArray[np.float64], slate: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return one row for each slate of items."""
        rows, slots = slate.shape
        shown = np.zeros((rows, slots * self.n_items))
        np.put_along_axis(shown, slate + np.arange(slots) * self.n_items, 1.0, axis=1)
        parts = [state, shown]
        if self.catalog is not None:
            table = self.catalog.features.double().cpu().numpy()
            parts.append(table[slate].reshape(rows, -1))
        return np.concatenate(parts, axis=1)

    def value(self, context: Context, columns: Int[Tensor, "user pick slot"]) -> Float[Tensor, "user pick"]:
        """Predict, a block of rows at a time."""
        users, picks, slots = columns.shape
        state = self.state(context)
        slate = context.slate(columns.reshape(users, -1)).reshape(users * picks, slots).cpu().numpy()
        out = np.empty(users * picks)
        block = max(1, _CELLS // (state.shape[1] + slots * self.n_items))
        for start in range(0, len(out), block):
            rows = np.arange(start, min(start + block, len(out)))
            out[rows] = self.model.predict(self.design(state[rows // picks], slate[rows]))
        return torch.from_numpy(out.reshape(users, picks)).to(columns.device)
