"""User-KNN: an item is as good as the most similar users who clicked it are similar."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.rankers._counts import Clicks, WholeRanker, multi_hot
from simlab.rankers._memory import check_room
from simlab.rankers.contract import Interactions, Sizes


class UserKNN(WholeRanker):
    """s_ui = Σ_{v among the k nearest of u} c_uv r_vi, with c_uv = ⟨x_u, r_v⟩ / (|x_u| |r_v| + h).

    x_u is 1 where u clicked in the history of the context, so new users work; r_v is a row for each training
    user, weight · target of each click (1 by default). A user with an id of their own is no neighbour of
    their own. Of equally near users at the k-th place all stay. A score is a sum of similarities, not a log
    odds.

    Memory is 20 bytes for each click that is kept; and for each user who is scored at once, 12 bytes for each
    item and 12 for each training user.

    Each call of `prepare` keeps the examples that it is given, and forgets the ones before.

    Source: Herlocker et al. (1999), "An algorithmic framework for performing collaborative filtering", SIGIR,
    here with the cosine of clicks instead of the correlation of ratings.

    Args:
        sizes: the data's sizes.
        spec: `neighbours` k, `shrinkage` h, `past` items of history, and `kept`: how many clicks the table
            of training users has room for, which `prepare` sets.
        catalog: not used.

    Raises:
        BadInput: for no neighbours, no past, a negative shrinkage, or if the machine has less memory than the
            users who are scored at once take.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        neighbours: int = 20
        shrinkage: float = 0.0
        past: int = 1000
        kept: int = 0

    name: ClassVar[str] = "user_knn"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.user: Tensor
        self.item: Tensor
        self.value: Tensor
        self.register_buffer("user", torch.zeros(spec.kept, dtype=torch.long))
        self.register_buffer("item", torch.zeros(spec.kept, dtype=torch.long))
        self.register_buffer("value", torch.zeros(spec.kept))

    @classmethod
    def check(cls, sizes: Sizes, spec: Spec) -> None:
        """Refuse a catalogue of which the machine cannot hold one user's scores, or the kept clicks."""
        check_room(cls.name, "the clicks and scores", sizes.n_items, 12 * sizes.n_items + 20 * spec.kept)

    def prepare(self, seen: Interactions) -> None:
        """Keep the users' clicks, sorted by user and item."""
        clicks = Clicks.of(seen, self.sizes.n_items)
        self.user, self.item, self.value = clicks.users[clicks.row], clicks.item, clicks.value.float()
        # A saved ranker is built from its spec, which must know the size of the table.
        self.spec = replace(self.spec, kept=len(clicks.item))

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the score of every item: two products with the sparse table of training users."""
        rows, n = len(context), self.sizes.n_items
        check_room(self.name, f"the scores for {rows:,} users", n, 12 * rows * n, context.device.type)
        mine = multi_hot(context, self.past, self.sizes.n_items)
        if len(self.user) == 0:
            return mine * 0
        users, row = torch.unique_consecutive(self.user, return_inverse=True)
        table = torch.sparse_coo_tensor(
            torch.stack([row, self.item]),
            self.value,
            (len(users), self.sizes.n_items),
            is_coalesced=True,
            check_invariants=False,
        )
        norm = torch.zeros(len(users), device=row.device).index_add_(0, row, self.value.square()).sqrt()
        scale = mine.sum(1, keepdim=True).sqrt() * norm + float(self.spec.shrinkage)
        alike = torch.sparse.mm(table, mine.T).T / scale.clamp(min=1e-12)
        own = (context.user.unsqueeze(1) == users) & (users < self.sizes.n_users)
        alike = alike.masked_fill(own, 0.0)
        least = alike.topk(min(self.spec.neighbours, len(users)), dim=1).values[:, -1:]
        alike = alike.where(alike >= least, 0.0)
        scores: Tensor = torch.sparse.mm(table.transpose(0, 1), alike.T).T
        return scores
