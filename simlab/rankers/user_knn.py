"""User-KNN: an item is as good as the most similar users who clicked it are similar."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._counts import Clicks, WholeRanker, multi_hot
from simlab.rankers.contract import Interactions, Sizes


class UserKNN(WholeRanker):
    """s_ui = Σ_{v among the k nearest of u} c_uv r_vi, with c_uv = ⟨x_u, r_v⟩ / (|x_u| |r_v| + h).

    x_u is 1 where u clicked in the history of the context, so new users work; r_v is a row for each training
    user, weight · target of each click (1 by default). A user with an id of their own is no neighbour of
    their own. Of equally near users at the k-th place all stay. A score is a sum of similarities, not a log
    odds.

    Each call of `prepare` keeps the examples that it is given, and forgets the ones before.

    Source: Herlocker et al. (1999), "An algorithmic framework for performing collaborative filtering", SIGIR,
    here with the cosine of clicks instead of the correlation of ratings.

    Args:
        sizes: the data's sizes.
        spec: `neighbours` k, `shrinkage` h, `past` items of history, and `kept`: how many clicks the table
            of training users has room for, which `prepare` sets.
        catalog: not used.

    Raises:
        BadInput: for no neighbours, no past, or a negative shrinkage.
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
        if spec.neighbours < 1:
            raise BadInput(f"neighbours is at least 1, not {spec.neighbours}")
        if not spec.shrinkage >= 0:
            raise BadInput(f"shrinkage is at least 0, not {spec.shrinkage}")
        self.user: Tensor
        self.item: Tensor
        self.value: Tensor
        self.register_buffer("user", torch.zeros(spec.kept, dtype=torch.long))
        self.register_buffer("item", torch.zeros(spec.kept, dtype=torch.long))
        self.register_buffer("value", torch.zeros(spec.kept))

    def prepare(self, seen: Interactions) -> None:
        """Keep the users' clicks, sorted by user and item."""
        clicks = Clicks.of(seen, self.sizes.n_items)
        self.user, self.item, self.value = clicks.users[clicks.row], clicks.item, clicks.value.float()
        # A saved ranker is built from its spec, which must know the size of the table.
        self.spec = replace(self.spec, kept=len(clicks.item))

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return the score of every item: two products with the sparse table of training users."""
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
