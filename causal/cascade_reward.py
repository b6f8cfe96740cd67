"""Models of what is still to come: Q̂_k(x, a_1 … a_k), fitted from the last slot up, out of fold.

Q̂_k is what slots k and below earn under the *target* once a_1 … a_k are shown. The recursion regresses

    y_k = r_k + Σ_a π(a | x, a_1 … a_k) Q̂_{k+1}(x, a_1 … a_k, a)    on    (x, a_1 … a_k),

starting with y_K = r_K at the last slot.

Source: Kiyohara, Saito, Matsuhiro, Narita, Shimizu and Yamamoto (2022), "Doubly robust off-policy evaluation
for ranking policies under the cascade behavior model", section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from causal.q_models import check_regresses
from causal.rewards import Fitted, RewardModel, assign
from causal.sklearn_reward import check_size, numbers
from simlab.adapters.seeding import fit_weighted, seeded
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed

_CELLS = 1 << 22
"""Cells of a design matrix that predictions hold at once: 32 MB."""

Next = Callable[[slice, int], Float[Tensor, "round cand"]]
"""π(candidate at slot k | x, the logged items above it) of some rows."""


@runtime_checkable
class FittedSlot(Protocol):
    """A model of one slot that has seen its rows."""

    def predict(self, context: Context, above: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
        """Return Q̂_k of every candidate at this slot, below the given items, float64."""
        ...


@runtime_checkable
class CascadeModel(Protocol):
    """A recipe for Q̂_k. `fit_slot` returns something new, so it can be fitted once per slot and fold."""

    def fit_slot(
        self, log: Log, slot: int, y: Float[Tensor, " round"], seed: Seed, weight: Float[Tensor, " round"]
    ) -> FittedSlot:
        """Regress y on context and the items at the slots down to `slot`.

        Args:
            log: the rows to learn from.
            slot: k, from 0.
            y: what this slot and those below earn under the target.
            seed: of everything random.
            weight: of each row, above zero for some.
        """
        ...


@dataclass(frozen=True)
class SklearnCascade:
    """Q̂_k from any scikit-learn regressor.

    The design is [context features, one-hot item of each slot down to k], or [context features, item features
    of each slot down to k] with a catalogue. It is dense, 8 bytes a row and column, and held at once to fit:
    one-hot items are for hundreds of them. Predictions are made in blocks of 32 MB.

    Args:
        estimator: any scikit-learn regressor; it is cloned, never changed. Each `random_state` that is None,
            those inside it too, is set from the seed.
        catalog: the items, to use their features in place of their names.

    Raises:
        BadInput: for a classifier; at `fit_slot`, for a catalogue without features, weights that the
            regressor does not take, or a design of more than `causal.sklearn_reward.LARGEST` cells.
    """

    estimator: Any
    catalog: Catalog | None = None
    name: ClassVar[str] = "sklearn cascade"

    def __post_init__(self) -> None:
        check_regresses(self.estimator)

    def fit_slot(
        self, log: Log, slot: int, y: Float[Tensor, " round"], seed: Seed, weight: Float[Tensor, " round"]
    ) -> FittedSlot:
        """Fit a clone on one row for each slate."""
        instead = "give a catalogue with few item features, or fewer rows"
        if self.catalog is None:
            check_size(log.n_items, log.n_items, instead)
            table = np.eye(log.n_items)
        else:
            table = self.catalog.features.double().cpu().numpy()
            if table.shape[1] == 0:
                raise BadInput("the catalogue has no item features, so a model cannot tell items apart")
        features = numbers(log.features, len(log))
        wide = features.shape[1] + (slot + 1) * table.shape[1]
        check_size(len(log), wide, instead)
        x = _design(features, log.slate[:, : slot + 1].cpu().numpy(), table)
        # Equal weights are none: not every regressor takes them.
        by = None if bool((weight == weight[0]).all()) else weight.double().cpu().numpy()
        model = fit_weighted(seeded(self.estimator, seed.value), x, y.cpu().numpy(), by)
        return _FittedSklearn(model, table)


@dataclass(frozen=True, eq=False)
class _FittedSklearn:
    model: Any
    table: NDArray[np.float64]

    def predict(self, context: Context, above: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
        """Predict every candidate below the given items, a block of rows at a time."""
        users, cands = context.candidates.shape
        features = numbers(context.features, users)
        items, shown = context.candidates.cpu().numpy(), above.cpu().numpy()
        width = features.shape[1] + (shown.shape[1] + 1) * self.table.shape[1]
        block = max(1, _CELLS // (cands * width))
        out = np.empty((users, cands))
        for start in range(0, users, block):
            rows = slice(start, start + block)
            size = len(items[rows])
            slates = np.concatenate(
                [np.repeat(shown[rows], cands, axis=0), items[rows].reshape(-1, 1)], axis=1
            )
            x = _design(np.repeat(features[rows], cands, axis=0), slates, self.table)
            out[rows] = np.asarray(self.model.predict(x), dtype=np.float64).reshape(size, cands)
        return torch.from_numpy(out).to(above.device)


@dataclass(frozen=True)
class AdditiveCascade:
    """Q̂_k from any reward model of single items, fitted to y_k with a_k as the item and k as the position.

    It does not see the items above, so it is exact only where they do not matter to what is still to come.
    Cascade-DR pays for that in variance, not in bias.

    Args:
        model: the recipe, for rewards that are numbers (a ranker needs link "identity").

    Raises:
        BadInput: for a model that wants a history: slots of one slate have none of their own.
    """

    model: RewardModel
    name: ClassVar[str] = "additive cascade"

    def __post_init__(self) -> None:
        if self.model.past:
            raise BadInput(
                f"a reward model of slots cannot look back, and this one wants past={self.model.past}"
            )

    def fit_slot(
        self, log: Log, slot: int, y: Float[Tensor, " round"], seed: Seed, weight: Float[Tensor, " round"]
    ) -> FittedSlot:
        """Fit the reward model on one item of each slate."""
        single = Log(
            user=log.user,
            slate=log.slate[:, slot : slot + 1],
            propensity=torch.ones_like(log.propensity),
            reward=y,
            n_items=log.n_items,
            features=log.features,
            position=torch.full_like(log.user, slot),
            candidates=log.candidates,
            categories=log.categories,
            category_sizes=log.category_sizes,
        )
        plain = bool((weight == weight[0]).all())
        return _FittedAdditive(self.model.fit(single, log.slots, seed, None if plain else weight), slot)


@dataclass(frozen=True, eq=False)
class _FittedAdditive:
    model: Fitted
    slot: int

    def predict(self, context: Context, above: Int[Tensor, "user above"]) -> Float[Tensor, "user cand"]:
        """Return the reward model of every candidate at this slot, whatever is above."""
        here = torch.full((len(context), 1), self.slot, device=context.device)
        return self.model.predict(context, here).squeeze(1)


def fit_cascade(
    log: Log,
    model: CascadeModel,
    reward: Float[Tensor, "round slot"],
    following: Next,
    *,
    folds: int = 3,
    seed: Seed = Seed(0),
    group: bool = True,
    weight: Float[Tensor, "round slot"] | None = None,
    chunk: int = 4096,
) -> tuple[Float[Tensor, "round slot"], Float[Tensor, "round slot"]]:
    """Return (q_logged, q_target) of `causal.contract.Slates`, from models that have not seen their rows.

    Args:
        log: the slates.
        model: the recipe.
        reward: r_k of each slot.
        following: the target's chance of each candidate at a slot, below what was logged above it.
        folds: of cross-fitting.
        seed: of folds and fits.
        group: keep users whole in folds.
        weight: of each row at each slot in the regressions, such as the cascade weight; 1 by default.
        chunk: rounds at a time.

    Raises:
        BadInput: if the log is too small for the folds.
    """
    fold = assign(log, folds, seed.split("folds"), group)
    context = log.context()
    by = torch.ones_like(reward) if weight is None else weight
    q_logged, q_target = torch.empty_like(reward), torch.empty_like(reward)
    ahead = torch.zeros(folds, len(log), dtype=reward.dtype, device=reward.device)  # V̂ of the slot below
    for slot in reversed(range(log.slots)):
        fitted = []
        for number in range(folds):
            train = (fold != number).nonzero().squeeze(1)
            y, w = reward[train, slot] + ahead[number, train], by[train, slot]
            if not bool((w > 0).any()):
                w = torch.ones_like(w)  # the target never begins so: any model will do, all weights are zero
            use = w > 0
            luck = seed.split(f"fold {number}, slot {slot}")
            fitted.append(model.fit_slot(log.rows(train[use]), slot, y[use], luck, w[use]))
        for start in range(0, len(log), chunk):
            rows = slice(start, start + chunk)
            seen, above = context.rows(rows), log.slate[rows, :slot]
            chance = following(rows, slot)
            own = seen.columns(log.slate[rows, slot : slot + 1])
            for number, each in enumerate(fitted):
                q = each.predict(seen, above)
                ahead[number, rows] = (chance * q).sum(1)
                here = (fold[rows] == number).nonzero().squeeze(1)
                q_logged[start + here, slot] = q[here].gather(1, own[here]).squeeze(1)
                q_target[start + here, slot] = ahead[number, start + here]
    return q_logged, q_target


def _design(
    features: NDArray[np.float64], slates: NDArray[np.int64], table: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return one row for each beginning of a slate."""
    return np.concatenate([features, table[slates].reshape(len(slates), -1)], axis=1)
