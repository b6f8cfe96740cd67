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
from causal.sklearn_reward import numbers
from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed


@dataclass(frozen=True)
class SklearnPropensity:
    """P(item | context features, one-hot position) by any scikit-learn classifier with one class an item.

    What the classifier says of items outside a row's candidates is dropped, and the rest sums to one. An item
    that no training row shows has probability 0 here; `cross_fit_propensity` lifts it to its floor.

    Args:
        estimator: any classifier with `predict_proba`; it is cloned, never changed.
        past: H; histories are not used, so 0.

    Raises:
        BadInput: at `fit`, for slates, or a classifier without probabilities.
    """

    estimator: Any
    past: int = 0
    name: ClassVar[str] = "sklearn"

    def fit(
        self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None
    ) -> FittedPropensity:
        """Fit a clone; rows of one item only give that item."""
        from sklearn.base import clone

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
        model = clone(self.estimator)
        if "random_state" in model.get_params() and model.get_params()["random_state"] is None:
            model.set_params(random_state=seed.value % (1 << 32))
        x = _design(numbers(log.features, len(log)), positions(log)[:, 0], slots)
        if weight is None:
            model.fit(x, item)
        else:
            model.fit(x, item, sample_weight=weight.cpu().numpy())
        return _Classes(model, np.asarray(model.classes_), log.n_items, slots)


@dataclass(frozen=True, eq=False)
class _Classes:
    model: Any
    known: NDArray[np.int64]
    n_items: int
    slots: int

    def probabilities(self, context: Context, position: Int[Tensor, " user"]) -> Float[Tensor, "user cand"]:
        said = np.ones((len(context), 1))
        if self.model is not None:
            said = self.model.predict_proba(
                _design(numbers(context.features, len(context)), position, self.slots)
            )
        table = torch.zeros(len(context), self.n_items, dtype=torch.float64, device=position.device)
        table[:, torch.from_numpy(self.known).to(position.device)] = torch.from_numpy(said).double().to(table)
        return whole(table.gather(1, context.candidates), context.mask)


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
