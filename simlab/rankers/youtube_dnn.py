"""YouTube's candidate generation: a network over the mean of what was watched, a softmax over items."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ContextSide, ItemTable, clicked_history, dot, user_rows
from simlab.rankers._towers import Tower
from simlab.rankers.contract import Ranker, Sizes


class YouTubeDNN(Ranker):
    """logit(u, i) = ⟨f([mean of watched vectors, side]), v_i⟩ + b_i, f a tower of ReLU layers.

    The watched vectors are input vectors, the v_i are the softmax's own. The side is the features and
    categories of the moment, and the user's id where there is one (the paper has no ids). Trained by a
    sampled softmax, corrected by log q.

    Source: Covington, Adams and Sargin (2016), "Deep neural networks for YouTube recommendations", RecSys,
    section 3. The age of the example is not a feature here: give it as one if the items age.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, hidden `layers` of the tower, `past` items of history, `spread` of the
            first vectors, `dropout` of the tower's input.
        catalog: what is known of the items; it joins both their vectors.

    Raises:
        BadInput: if a layer has no unit.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 64
        layers: tuple[int, ...] = (128,)
        past: int = 50
        spread: float = 0.1
        dropout: float = 0.3

    name: ClassVar[str] = "youtube_dnn"
    recipe: ClassVar[Mapping[str, Any]] = {
        "loss": "softmax",
        "negatives": 100,
        "sampler": "popularity",
        "epochs": 30,
        "batch_size": 20_000,
        "learning_rate": 0.001,
        "split": "round",
        "judge": "ndcg",
        "patience": 4,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past, self.dim = spec.past, spec.dim
        self.watched = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.items = ItemTable(sizes.n_items, spec.dim + 1, catalog, spec.spread)
        nn.init.zeros_(self.items.ids.weight[:, -1])  # the last column is the item's bias
        self.users = nn.Embedding(sizes.n_users, spec.dim)
        nn.init.zeros_(self.users.weight)
        self.side = ContextSide(sizes, spec.dim, spec.spread)
        self.tower = Tower(2 * spec.dim, (*spec.layers, spec.dim), unit=False)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [f, 1]."""
        history = clicked_history(context, self.past, self.sizes.n_items)
        there = history >= 0
        share = there / there.sum(1, keepdim=True).clamp(min=1)
        table = self.watched.all()
        mean = table.new_zeros(len(context), self.dim)
        if history.shape[1]:
            mean = functional.embedding_bag(
                history.clamp(min=0), table, mode="sum", per_sample_weights=share.to(table.dtype)
            )
        side = user_rows(self.users, context.user) + self.side(context.features, context.categories)
        known = functional.dropout(torch.cat([mean, side], dim=1), self.spec.dropout, self.training)
        vector: Tensor = self.tower(known)
        return torch.cat([vector, torch.ones_like(vector[:, :1])], dim=1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products."""
        state = self.encode(context) if state is None else state
        return dot(state, self.item_vectors(), context)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [v_i, b_i]."""
        return self.items.all()
