"""A propensity model from any scikit-learn classifier."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from causal.propensity import FittedPropensity
from causal.rewards import positions
from causal.sklearn_reward import check_size, numbers
from simlab.adapters.seeding import fit_weighted, seeded
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed

_CELLS = 1 << 22
"""Cells of [row, item] and of the design held at once: 32 MB."""


@dataclass(frozen=True)
class SklearnPropensity:
    """P(item | context features, one-hot position) by any scikit-learn classifier with one class an item.

    What the classifier says of items outside a row's candidates is dropped, and the rest sums to one. An item
    that no training row shows has probability 0 here; `cross_fit_propensity` lifts it to its floor.

    The design is dense: 8 bytes a row for each feature and position, held at once to fit. Probabilities are
    asked for in blocks of 32 MB, however many items there are.

    Args:
        estimator: any classifier with `predict_proba`; it is cloned, never changed. Each `random_state` that
            is None, those inside it too, is set from the seed.
        past: H; histories are not used, so 0.

    Raises:
        BadInput: at `fit`, for slates, a classifier without probabilities, weights that it does not take, or
            a design of more than `causal.sklearn_reward.LARGEST` cells.
    """

    estimator: Any
    past: int = 0
    name: ClassVar[str] = "sklearn"

    def fit(
        self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None
    ) -> FittedPropensity:
        """Fit a clone; rows of one item only give that item."""
        if log.slots > 1:
            raise BadInput(
                f"a classifier knows one item a row, but slate has {log.slots} slots: take a ranker"
            )
        if not hasattr(self.estimator, "predict_proba"):
            raise BadInput(
                f"{type(self.estimator).__name__} has no predict_proba, so it gives no propensities"
            )
        item = log.slate[:, 0].cpu().numpy()
        if item.min() == item.max():
            return _Classes(None, item[:1], log.n_items, slots)
        features = numbers(log.features, len(log))
        check_size(len(log), features.shape[1] + slots, "take a ranker (RankerPropensity), or fewer rows")
        by = None if weight is None else weight.double().cpu().numpy()
        x = _design(features, positions(log)[:, 0], slots)
        model = fit_weighted(seeded(self.estimator, seed.value), x, item, by)
        return _Classes(model, np.asarray(model.classes_), log.n_items, slots)


@dataclass(frozen=True, eq=False)
class _Classes:
    model: Any
    known: NDArray[np.int64]
    n_items: int
    slots: int

    def probabilities(self, context: Context, position: Int[Tensor, " user"]) -> Float[Tensor, "user cand"]:
        """Ask for all items a block of rows at a time, and keep the candidates."""
        features = numbers(context.features, len(context))
        known = torch.from_numpy(self.known).to(position.device)
        out = torch.empty(context.candidates.shape, dtype=torch.float64, device=position.device)
        block = max(1, _CELLS // max(self.n_items, features.shape[1] + self.slots))
        for start in range(0, len(context), block):
            rows = slice(start, start + block)
            items = context.candidates[rows]
            said = np.ones((len(items), 1))
            if self.model is not None:
                said = self.model.predict_proba(_design(features[rows], position[rows], self.slots))
            table = torch.zeros(len(items), self.n_items, dtype=torch.float64, device=position.device)
            table[:, known] = torch.from_numpy(said).double().to(position.device)
            out[rows] = table.gather(1, items)
        return whole(out, context.mask)


def whole(table: Float[Tensor, "row cand"], mask: Bool[Tensor, "row cand"]) -> Float[Tensor, "row cand"]:
    """Make candidates sum to one; a row of which the model knows no candidate is even."""
    kept = table * mask
    total = kept.sum(1, keepdim=True)
    even = mask.double() / mask.sum(1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp(min=torch.finfo(torch.float64).tiny), even)


def _design(features: NDArray[np.float64], place: Int[Tensor, " row"], slots: int) -> NDArray[np.float64]:
    """Put context features and one-hot positions side by side; a constant where there is neither."""
    page = np.eye(slots)[place.cpu().numpy()] if slots > 1 else np.zeros((len(features), 0))
    x = np.concatenate([features, page], 1)
    return x if x.shape[1] else np.zeros((len(features), 1))
