"""Neural collaborative filtering: a weighted product, a small network, or both on one user and one item."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._blocks import ItemTable, UserSide, dot, shared_candidates
from simlab.rankers.contract import Ranker, Sizes

RECIPE: Mapping[str, Any] = {
    "loss": "bce",
    "negatives": 4,
    "epochs": 25,
    "batch_size": 8192,
    "learning_rate": 0.003,
    "weight_decay": 0.3,
    "split": "round",
    "judge": "ndcg",
    "patience": 8,
}
"""Settings of `fit` that suit implicit feedback; four drawn items for each click are the paper's."""


class NCF(Ranker):
    """logit(u, i) = μ + ⟨h, p_u ⊙ q_i⟩ + MLP([p'_u, q'_i]), or either half alone.

    [p_u, p'_u] is `UserSide`: the id's vector plus the mean over clicked items of the history plus what the
    context's features and categories say, so new users are personalised too. [q_i, q'_i] is `ItemTable`: the
    id's vector plus what is known of the item. One lookup serves both halves. h starts at one: a plain
    factorisation.

    The network's first layer is linear in [p', q'], so it is split in two: A p' + a is part of the state,
    B q' is one row per item, and C candidates cost one broadcast addition instead of C concatenations.

    The paper has ids alone, no μ, and the sigmoid that we leave to the loss; the halves are trained together
    without its pre-training.

    Source: He et al. (2017), "Neural collaborative filtering", WWW, equations 9 (product), 10 (network) and
    12 (both).

    Args:
        sizes: the data's sizes.
        spec: has `dim` of each half's vectors, `past` items of history and `spread` of the first vectors.
        catalog: what is known of the items.
        product: whether there is the first half.
        layers: widths of the network's layers, each with a ReLU; None for no second half.
        dropout: share of each layer's outputs that training leaves out.

    Raises:
        BadInput: if the network has no layer, or for a dropout that is no share.
    """

    def __init__(
        self,
        sizes: Sizes,
        spec: Any,
        catalog: Catalog | None,
        *,
        product: bool,
        layers: tuple[int, ...] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        self.width = spec.dim if product else 0  # of the first half
        dim = self.width + (0 if layers is None else spec.dim)
        self.user = UserSide(sizes, dim, spec.past, spec.spread)
        self.items = ItemTable(sizes.n_items, dim, catalog, spec.spread)
        self.bias = nn.Parameter(torch.zeros(()))
        self.product = nn.Parameter(torch.ones(spec.dim)) if product else None
        self.network = None if layers is None else Network(self.name, spec.dim, layers, dropout)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [h ⊙ p_u, A p'_u + a]: the user's part of both halves."""
        first, second = self.user(context).tensor_split([self.width], dim=1)
        parts = [] if self.product is None else [first * self.product]
        if self.network is not None:
            parts.append(self.network.user_half(second))
        return torch.cat(parts, dim=1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Add the halves; a network's memory is user × cand × the widest layer: ask in chunks of users."""
        state = self.encode(context) if state is None else state
        first, second = state.tensor_split([self.width], dim=1)
        q, q_network = self.items.all().tensor_split([self.width], dim=1)
        logit: Tensor = self.bias
        if self.product is not None:
            logit = logit + dot(first, q, context)
        if self.network is not None:
            logit = logit + self.network(second, q_network, context)
        return logit

    def start(self, logit: float) -> None:
        """Set μ."""
        if self.bias.item() == 0:
            nn.init.constant_(self.bias, logit)


class Network(nn.Module):
    """MLP([p', q']) with one output and no bias there.

    Args:
        name: of the family, for refusals.
        dim: width of p' and q'.
        layers: widths of the layers, each with a ReLU.
        dropout: share of each layer's outputs that training leaves out.

    Raises:
        BadInput: if there is no layer.
    """

    def __init__(self, name: str, dim: int, layers: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        if not layers:
            raise BadInput(f"{name} needs at least one layer in its MLP, and layers is empty")
        self.user_half = nn.Linear(dim, layers[0])
        self.item_half = nn.Linear(dim, layers[0], bias=False)
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(layers))
        self.out = nn.Linear(layers[-1], 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, first: Float[Tensor, "user layer"], vectors: Float[Tensor, "item dim"], context: Context
    ) -> Float[Tensor, "user cand"]:
        """Return the output for each candidate, given A p' + a of the users and q' of all items."""
        shared = shared_candidates(context)
        items = context.candidates if shared is None else shared
        if items.numel() < len(vectors):
            half = self.item_half(functional.embedding(items, vectors))
        else:  # each item's half of the first layer once, however often it is a candidate
            half = functional.embedding(items, self.item_half(vectors))
        hidden = self.dropout(functional.relu(first.unsqueeze(1) + half))
        for layer in self.rest:
            hidden = self.dropout(functional.relu(layer(hidden)))
        logit: Tensor = self.out(hidden).squeeze(2)
        return logit
