"""Columns: the rows of a table as contexts, so that a ranker is fitted like any estimator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput, nearest
from simlab.rankers.contract import Sizes

Column = int | str


@dataclass(frozen=True, eq=False)
class Columns:
    """What each column of a table is, learned from the rows that are fitted.

    Attributes:
        names: of the columns, for refusals.
        user: the column of user ids, or None.
        item: the column of item ids, or None.
        categories: columns of categories.
        numeric: all other columns.
        ids: the known ids of each id column, sorted.
        mean: of each numeric column.
        spread: standard deviation of each numeric column; infinite for a constant one, which becomes 0.
    """

    names: tuple[str, ...]
    user: int | None
    item: int | None
    categories: tuple[int, ...]
    numeric: tuple[int, ...]
    ids: dict[int, NDArray[np.float64]]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        x: NDArray[np.float64],
        weight: NDArray[np.float64],
        names: Sequence[str] | None,
        user: Column | None,
        item: Column | None,
        categories: Sequence[Column],
    ) -> "Columns":
        """Learn ids, and weighted means and standard deviations.

        Raises:
            BadInput: for a column that is not there or named twice, or an id that is not a whole number.
        """
        known = tuple(map(str, names if names is not None else range(x.shape[1])))
        asked = [c for c in (user, item) if c is not None] + list(categories)
        places = [_place(c, known, names is not None) for c in asked]
        for place in places:
            if places.count(place) > 1:
                raise BadInput(f"column {known[place]} can be only one of user, item and categories")
        rest = tuple(j for j in range(x.shape[1]) if j not in places)
        ids = {j: np.unique(_whole(x, j, known)) for j in places}
        at = iter(places)
        share = weight / weight.sum()
        mean = share @ x[:, rest]
        spread = np.sqrt(share @ (x[:, rest] - mean) ** 2)
        flat = spread <= 1e-12 * (1 + np.abs(x[:, rest]).max(0, initial=0))
        return cls(
            names=known,
            user=None if user is None else next(at),
            item=None if item is None else next(at),
            categories=tuple(at),
            numeric=rest,
            ids=ids,
            mean=mean,
            spread=np.where(flat, np.inf, spread),
        )

    def sizes(self, heads: int) -> Sizes:
        """Return the sizes for a ranker whose catalogue is (item, head), an unknown item's among them."""
        users = 0 if self.user is None else len(self.ids[self.user])
        items = 1 if self.item is None else len(self.ids[self.item]) + 1
        sizes = tuple(len(self.ids[j]) for j in self.categories)
        return Sizes(users, items * heads, len(self.numeric), categories=sizes)

    def rows(self, x: NDArray[np.float64], heads: int, dtype: torch.dtype, device: torch.device) -> "Rows":
        """Return a table as tensors.

        Raises:
            BadInput: for an id that is not a whole number.
        """
        user = np.zeros(len(x), np.int64) if self.user is None else self._ids(x, self.user)[0]
        categories = [np.where(known, at, -1) for at, known in (self._ids(x, j) for j in self.categories)]
        features = (x[:, self.numeric] - self.mean) / self.spread
        return Rows(
            user=torch.from_numpy(user).to(device),
            features=torch.from_numpy(features).to(device, dtype),
            item=None if self.item is None else torch.from_numpy(self._ids(x, self.item)[0]).to(device),
            categories=torch.from_numpy(np.stack(categories, 1)).to(device) if categories else None,
            heads=heads,
            n_items=self.sizes(1).n_items,
        )

    def _ids(self, x: NDArray[np.float64], column: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return our id of each row's, one past the last for an unknown one, and which are known."""
        value, known = _whole(x, column, self.names), self.ids[column]
        at = np.searchsorted(known, value)
        there = known[np.minimum(at, len(known) - 1)] == value
        return np.where(there, at, len(known)), there


@dataclass(frozen=True)
class Rows:
    """A table as tensors: each row is a user and moment before one item, with a candidate for each head.

    Attributes:
        user: our id of each user; at or above the ranker's `n_users` is a new one.
        features: the numeric columns, standardised.
        item: our id of each item, the last for an unknown one; None if there is no such column.
        categories: our id of each category, -1 for an unknown one.
        heads: how many numbers are said of each row.
        n_items: how many items there are, heads not counted.
    """

    user: Int[Tensor, " row"]
    features: Float[Tensor, "row feat"]
    item: Int[Tensor, " row"] | None
    categories: Int[Tensor, "row field"] | None
    heads: int
    n_items: int

    def context(self, at: Int[Tensor, " pick"], item: Int[Tensor, " pick"] | None = None) -> Context:
        """Return some rows; item i and head k are the candidate i · heads + k.

        Args:
            at: which rows.
            item: instead of their own.
        """
        each = torch.arange(self.heads, device=at.device)
        if self.item is None:
            candidates = each.expand(len(at), -1)
        else:
            own = self.item.index_select(0, at) if item is None else item
            candidates = own.unsqueeze(1) * self.heads + each
        return Context.of(
            self.user.index_select(0, at),
            self.n_items * self.heads,
            features=self.features.index_select(0, at),
            candidates=candidates,
            categories=None if self.categories is None else self.categories.index_select(0, at),
        )


def _place(column: Column, names: Sequence[str], named: bool) -> int:
    """Return the index of a column by name or index.

    Raises:
        BadInput: if it is not there.
    """
    if isinstance(column, str):
        if not named:
            raise BadInput(f"column {column} is a name, but X has no names: give a DataFrame or an index")
        if column not in names:
            raise BadInput(f"X has no column {column}{nearest(column, names)}")
        return names.index(column)
    if not -len(names) <= column < len(names):
        raise BadInput(f"X has no column {column}: it has {len(names)}")
    return int(column) % len(names)


def _whole(x: NDArray[np.float64], column: int, names: Sequence[str]) -> NDArray[np.float64]:
    """Return a column of ids.

    Raises:
        BadInput: naming the row and value that is not a whole number.
    """
    values = x[:, column]
    wrong = np.flatnonzero(values != np.floor(values))
    if len(wrong):
        raise BadInput(
            f"column {names[column]}, row {wrong[0]}: {values[wrong[0]]} is no id, ids are whole numbers"
        )
    return values
