"""What families that count or solve share: clicks as a sparse matrix, and scores of the whole catalogue."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.rankers._blocks import shared_candidates
from simlab.rankers.contract import Interactions, Ranker, Sizes


class WholeRanker(Ranker):
    """A ranker whose state is the score of every item: candidates are looked up in it.

    It is for families whose score of all items costs one product with a matrix, so that asking for a few
    would hardly be cheaper.

    Args:
        sizes: the data's sizes.
        spec: has `past`.
        catalog: not used: what is counted are ids.
    """

    least: ClassVar[Mapping[str, int]] = {"past": 1}

    def __init__(self, sizes: Sizes, spec: Any, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past

    @abstractmethod
    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the score of every item."""

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Look the candidates up."""
        state = self.encode(context) if state is None else state
        items = shared_candidates(context)
        return state.gather(1, context.candidates) if items is None else state[:, items]

    def score_all(self, context: Context) -> Float[Tensor, "user item"]:
        """Return the state."""
        return self.encode(context)


@dataclass(frozen=True)
class Clicks:
    """The matrix r_vi of what users clicked, without its zeros, sorted by row, then by item.

    r_vi = weight · target of v's click on i; of several clicks the largest counts, so that with weights of 1
    a row is the set of v's items.

    Attributes:
        users: the user id of each row.
        row: the row of each entry.
        item: its item.
        value: r_vi, float64.
        n_items: size of the catalogue.
    """

    users: Int[Tensor, " row"]
    row: Int[Tensor, " entry"]
    item: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    n_items: int

    @classmethod
    def of(cls, seen: Interactions, n_items: int) -> "Clicks":
        """Gather the clicks of all users, those without an id of their own too."""
        clicks = seen.clicks()
        users, row = torch.unique(clicks.user, return_inverse=True)
        cell, place = torch.unique(row * n_items + clicks.item, return_inverse=True)
        value = torch.zeros(len(cell), dtype=torch.float64, device=cell.device)
        value.scatter_reduce_(0, place, (clicks.weight.double() * clicks.target.double()), "amax")
        row = torch.div(cell, n_items, rounding_mode="floor")
        return cls(users, row, cell - row * n_items, value, n_items)

    def transposed(self) -> Float[Tensor, "item row"]:
        """Return Rᵀ as a sparse matrix."""
        where = torch.stack([self.item, self.row])
        return torch.sparse_coo_tensor(
            where, self.value, (self.n_items, len(self.users)), check_invariants=False
        ).coalesce()

    def columns(self, first: int, last: int) -> Float[Tensor, "row column"]:
        """Return the dense columns of items first … last - 1."""
        mine = (self.item >= first) & (self.item < last)
        dense = torch.zeros(len(self.users), last - first, dtype=torch.float64, device=self.row.device)
        dense[self.row[mine], self.item[mine] - first] = self.value[mine]
        return dense


def multi_hot(context: Context, past: int, n_items: int) -> Float[Tensor, "user item"]:
    """Return 1 for each item that the user clicked among the last `past` of the history, else 0."""
    history, feedback = context.history[:, -past:], context.feedback[:, -past:]
    clicked = (feedback > 0) & (history >= 0) & (history < n_items)
    hot = torch.zeros(len(context), n_items + 1, dtype=context.features.dtype, device=context.device)
    hot.scatter_(1, history.where(clicked, n_items), 1.0)  # what is no click lands in the last column
    return hot[:, :n_items]
