"""A reward model from any scikit-learn classifier or regressor."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from causal.rewards import Fitted, answers, positions
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed

_CELLS = 1 << 22
"""Cells of a design matrix held at once: 32 MB."""


@dataclass(frozen=True)
class SklearnReward:
    """q̂(x, a, k) from context features, the item and the position.

    The design is [context features, one-hot item, item features of the catalogue, one-hot position]; the last
    only where a page has several positions. A classifier gives the probability of class 1, a regressor its
    prediction. Rows without any click (one class) give a constant. An item that no training row shows has a
    one-hot column that is always zero there, so it gets the prediction of the context, its features and the
    position alone. The one-hot design is dense: for catalogues of thousands of items use `RankerReward`.

    Args:
        estimator: any scikit-learn estimator; it is cloned, never changed.
        catalog: the items, to use their features.

    Raises:
        BadInput: at `fit`, for a classifier on rewards other than 0 and 1.
    """

    estimator: Any
    catalog: Catalog | None = None
    past: int = 0
    name: ClassVar[str] = "sklearn"

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Fit a clone on one row for each shown item."""
        from sklearn.base import clone, is_classifier

        layout = Layout(log.n_items, slots, self.catalog)
        seen = answers(log)
        y = seen.reshape(-1).cpu().numpy()
        classes = is_classifier(self.estimator)
        if classes and bool(((y != 0) & (y != 1)).any()):
            wrong = int(np.flatnonzero((y != 0) & (y != 1))[0]) // log.slots
            raise BadInput(f"column reward, row {wrong}: a classifier needs 0 or 1; give a regressor")
        if classes and y.min() == y.max():
            return _Constant(float(y[0]))
        row = np.repeat(np.arange(len(log)), log.slots)
        x = layout.design(
            numbers(log.features, len(log))[row],
            log.slate.reshape(-1).cpu().numpy(),
            positions(log).reshape(-1).cpu().numpy(),
        )
        model = clone(self.estimator)
        if "random_state" in model.get_params() and model.get_params()["random_state"] is None:
            model.set_params(random_state=seed.value % (1 << 32))
        if weight is None:
            model.fit(x, y)
        else:
            model.fit(x, y, sample_weight=weight.cpu().numpy()[row])
        return _FittedSklearn(model, layout, classes)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where things are in a row of the design matrix."""

    n_items: int
    slots: int
    catalog: Catalog | None

    def width(self, features: int) -> int:
        """Return the number of columns."""
        known = 0 if self.catalog is None else self.catalog.features.shape[1]
        return features + self.n_items + known + (self.slots if self.slots > 1 else 0)

    def design(
        self, features: NDArray[np.float64], item: NDArray[np.int64], position: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return one row for each (context, item, position)."""
        row, wide = np.arange(len(item)), features.shape[1]
        x = np.zeros((len(item), self.width(wide)))
        x[:, :wide] = features
        x[row, wide + item] = 1
        if self.catalog is not None:
            table = self.catalog.features.double().cpu().numpy()
            x[:, wide + self.n_items : wide + self.n_items + table.shape[1]] = table[item]
        if self.slots > 1:
            x[row, x.shape[1] - self.slots + position] = 1
        return x


@dataclass(frozen=True, eq=False)
class _FittedSklearn:
    model: Any
    layout: Layout
    classes: bool

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Predict every candidate at every given position, a block of rows at a time."""
        users, slots = position.shape
        cands = context.candidates.shape[1]
        features = numbers(context.features, users)
        items, places = context.candidates.cpu().numpy(), position.cpu().numpy()
        out = np.empty((users, slots, cands))
        block = max(1, _CELLS // (slots * cands * max(1, self.layout.width(features.shape[1]))))
        for start in range(0, users, block):
            rows = slice(start, start + block)
            size = len(items[rows])
            x = self.layout.design(
                np.repeat(features[rows], slots * cands, axis=0),
                np.broadcast_to(items[rows, None, :], (size, slots, cands)).reshape(-1),
                np.repeat(places[rows].reshape(-1), cands),
            )
            said = self.model.predict_proba(x)[:, 1] if self.classes else self.model.predict(x)
            out[rows] = said.reshape(size, slots, cands)
        return torch.from_numpy(out).to(position.device)


@dataclass(frozen=True)
class _Constant:
    """The only class that the training rows had."""

    value: float

    def predict(
        self, context: Context, position: Int[Tensor, "user slot"]
    ) -> Float[Tensor, "user slot cand"]:
        """Return the constant."""
        shape = (*position.shape, context.candidates.shape[1])
        return torch.full(shape, self.value, dtype=torch.float64, device=position.device)


def numbers(features: Tensor | None, rows: int) -> NDArray[np.float64]:
    """Return context features as an array, of no column where there are none."""
    return np.zeros((rows, 0)) if features is None else features.double().cpu().numpy()
