"""A reward model from any scikit-learn classifier or regressor."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from causal.rewards import Fitted, answers, positions
from simlab.adapters.seeding import fit_weighted, seeded
from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.seeds import Seed

_CELLS = 1 << 22
"""Cells of a design matrix that predictions hold at once: 32 MB."""

LARGEST = 1 << 29
"""Cells of a design matrix that a model is fitted on, at most: 4 GB. Learners often copy it."""


@dataclass(frozen=True)
class SklearnReward:
    """q̂(x, a, k) from context features, the item and the position.

    The design is [context features, one-hot item, item features of the catalogue, one-hot position]; the last
    only where a page has several positions. A classifier gives the probability of class 1, a regressor its
    prediction. Rows without any click (one class) give a constant. An item that no training row shows has a
    one-hot column that is always zero there, so it gets the prediction of the context, its features and the
    position alone.

    The design is dense, 8 bytes for each shown item and column, and held at once to fit: for catalogues of
    thousands of items use `RankerReward`. Predictions are made in blocks of 32 MB.

    Args:
        estimator: any scikit-learn estimator; it is cloned, never changed. Each `random_state` that is None,
            those inside it too, is set from the seed.
        catalog: the items, to use their features.

    Raises:
        BadInput: at `fit`, for a classifier on rewards other than 0 and 1, weights that the estimator does
            not take, or a design of more than `LARGEST` cells.
    """

    estimator: Any
    catalog: Catalog | None = None
    past: int = 0
    name: ClassVar[str] = "sklearn"

    def fit(self, log: Log, slots: int, seed: Seed, weight: Float[Tensor, " round"] | None = None) -> Fitted:
        """Fit a clone on one row for each shown item."""
        from sklearn.base import is_classifier

        layout = Layout(log.n_items, slots, self.catalog)
        seen = answers(log)
        y = seen.reshape(-1).cpu().numpy()
        classes = is_classifier(self.estimator)
        if classes and bool(((y != 0) & (y != 1)).any()):
            wrong = int(np.flatnonzero((y != 0) & (y != 1))[0]) // log.slots
            raise BadInput(f"column reward, row {wrong}: a classifier needs 0 or 1; give a regressor")
        if classes and y.min() == y.max():
            return _Constant(float(y[0]))
        wide = 0 if log.features is None else log.features.shape[1]
        check_size(len(y), layout.width(wide), "take a ranker (RankerReward), or fewer rows")
        row = np.repeat(np.arange(len(log)), log.slots)
        x = layout.design(
            numbers(log.features, len(log))[row],
            log.slate.reshape(-1).cpu().numpy(),
            positions(log).reshape(-1).cpu().numpy(),
        )
        by = None if weight is None else weight.double().cpu().numpy()[row]
        model = fit_weighted(seeded(self.estimator, seed.value), x, y, by)
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


def check_size(rows: int, columns: int, instead: str) -> None:
    """Refuse a design matrix that is too large to be held.

    Args:
        rows: of the matrix.
        columns: of the matrix.
        instead: what to do, as the end of a sentence.

    Raises:
        BadInput: for more than `LARGEST` cells.
    """
    if rows * columns > LARGEST:
        size, most = rows * columns * 8 / 1e9, LARGEST * 8 / 1e9
        raise BadInput(
            f"the design of {rows:,} rows and {columns:,} columns would be {size:.1f} GB, and {most:.1f} GB "
            f"is the most that is built: {instead}"
        )


def numbers(features: Tensor | None, rows: int) -> NDArray[np.float64]:
    """Return context features as an array, of no column where there are none."""
    return np.zeros((rows, 0)) if features is None else features.double().cpu().numpy()
