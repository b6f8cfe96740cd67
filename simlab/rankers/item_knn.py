"""Item-KNN: an item is as good as the clicked items among its nearest neighbours are near."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import shared_candidates
from simlab.rankers._counts import Clicks, multi_hot
from simlab.rankers._memory import check_room
from simlab.rankers.contract import Interactions, Ranker, Sizes


class ItemKNN(Ranker):
    """s_ui = n_i^(−γ) Σ_{j clicked by u, among the k nearest of i} n_ij / (√(n_i n_j) + h).

    n_ij = Σ_v r_vi r_vj and n_i = n_ii, with r_vi = weight · target of v's click: with weights of 1, how many
    users clicked both, and one. h shrinks similarities that rest on few users; γ damps popular items.
    The neighbours are those of the item that is scored, not of the clicked ones: so each item has up to k.
    Of equally near items at the k-th place any may stay. A score is a sum of similarities, not a log odds.

    Memory is 8 bytes for each of an item's neighbours. While `prepare` looks for them, 1,024 items at a time,
    it is 32 KiB more for each item and 8 KiB for each user.

    Each call of `prepare` counts the examples that it is given, and forgets the ones before.

    Source: Deshpande and Karypis (2004), "Item-based top-N recommendation algorithms", TOIS 22(1) (there the
    neighbours are the clicked item's, and there is no h); the shrinkage of Bell and Koren (2007), "Improved
    neighborhood-based collaborative filtering", KDD Cup.

    Args:
        sizes: the data's sizes.
        spec: `neighbours` k, `shrinkage` h (in users), `damping` γ, `past` items of history. k = 200 and
            h = 50 are those of a reference run on MovieLens 100K, leave one out.
        catalog: not used.

    Raises:
        BadInput: for no neighbours, no past, a negative shrinkage, or if the machine has less memory.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        neighbours: int = 200
        shrinkage: float = 50.0
        damping: float = 0.0
        past: int = 1000

    name: ClassVar[str] = "item_knn"
    least: ClassVar[Mapping[str, int]] = {"past": 1}

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        k = min(spec.neighbours, sizes.n_items)
        self.near: Tensor
        self.likeness: Tensor
        self.register_buffer("near", torch.zeros(sizes.n_items, k, dtype=torch.int32))
        self.register_buffer("likeness", torch.zeros(sizes.n_items, k))

    @classmethod
    def check(cls, sizes: Sizes, spec: Spec) -> None:
        """Refuse neighbours that the machine cannot hold."""
        n = sizes.n_items
        check_room(cls.name, "the neighbours", n, 8 * n * min(spec.neighbours, n))

    def prepare(self, seen: Interactions) -> None:
        """Find the neighbours of each item.

        Raises:
            BadInput: if there is not the memory to look at 1,024 items at a time.
        """
        n, k = self.near.shape
        clicks = Clicks.of(seen, n)
        piece = 8 * min(n, 1024)
        size = 8 * n * k + piece * (4 * n + len(clicks.users))
        check_room(self.name, "and search the neighbours", n, size, seen.item.device.type)
        left = clicks.transposed()
        own = torch.zeros(n, dtype=torch.float64, device=seen.item.device)
        own.index_add_(0, clicks.item, clicks.value.square())
        for first in range(0, n, 1024):  # dense columns, a few at a time, so that memory is not item²
            last = min(first + 1024, n)
            both = torch.sparse.mm(left, clicks.columns(first, last)).T
            both[torch.arange(last - first), torch.arange(first, last)] = 0
            norm = (own[first:last].unsqueeze(1) * own).sqrt() + float(self.spec.shrinkage)
            found = (both / norm.where(both > 0, 1.0)).topk(k, dim=1)
            damp = own[first:last].clamp(min=1e-12) ** -float(self.spec.damping)
            self.near[first:last] = found.indices.int()
            self.likeness[first:last] = (found.values * damp.unsqueeze(1)).float()

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return 1 for each clicked item."""
        return multi_hot(context, self.past, self.sizes.n_items)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Add up the likeness of each candidate's neighbours that the user clicked."""
        state = self.encode(context) if state is None else state
        shared = context.candidates[0] if len(context) == 1 else shared_candidates(context)
        if shared is not None:
            return self._columns(state, shared)
        if 4 * context.candidates.shape[1] > self.sizes.n_items:  # rows of all users beat single numbers
            everything = torch.arange(self.sizes.n_items, device=context.device)
            return self._columns(state, everything).gather(1, context.candidates)
        near = self.near[context.candidates].long()
        clicked = state.gather(1, near.flatten(1)).view(near.shape)
        return (clicked * self.likeness[context.candidates]).sum(2)

    def score_all(self, context: Context) -> Float[Tensor, "user item"]:
        """Score every item."""
        everything = torch.arange(self.sizes.n_items, device=context.device)
        return self._columns(self.encode(context), everything)

    def _columns(
        self, state: Float[Tensor, "user dim"], items: Int[Tensor, " cand"]
    ) -> Float[Tensor, "user cand"]:
        """Score items that all rows share: a weighted sum of rows of the transposed state."""
        return functional.embedding_bag(
            self.near[items], state.T.contiguous(), mode="sum", per_sample_weights=self.likeness[items]
        ).T
