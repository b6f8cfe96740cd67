"""NeuMF: a factorisation and a small network, added up."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._blocks import clicked_mean, shared_candidates, user_rows
from simlab.rankers.contract import Ranker, Sizes


class NeuMF(Ranker):
    """logit(u, i) = ⟨h, p_u ⊙ q_i⟩ + MLP([p'_u, q'_i]), with separate vectors for the two halves.

    A user's vectors are the id's plus the mean over clicked items of the history plus a linear map of the
    context's features, so new users are personalised too (the paper has ids alone).

    The MLP's first layer is linear in [p', q'], so it is split in two: A p' is part of the state, B q' is
    one row per item, and C candidates cost one broadcast addition instead of C concatenations.

    Source: He et al. (2017), "Neural collaborative filtering", WWW, equations 9, 10 and 12 (the paper's
    sigmoid is left to the loss, and the two parts are trained together without pre-training).

    Args:
        sizes: the data's sizes.
        spec: `dim` of every vector, `layers` of the MLP, `past` items of history, `spread` of first weights.
        catalog: not used.

    Raises:
        BadInput: if the MLP has no layer.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 16
        layers: tuple[int, ...] = (64, 32, 16)
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "neumf"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        if not spec.layers:
            raise BadInput("neumf needs at least one layer in its MLP, and layers is empty")
        self.past = spec.past
        self.dim, self.first = spec.dim, spec.layers[0]
        # Columns 0 … dim-1 are the factorisation's, the rest the network's: one lookup for both.
        self.users = nn.Embedding(sizes.n_users, 2 * spec.dim)
        self.items = nn.Embedding(sizes.n_items, 2 * spec.dim)
        self.implicit = nn.Embedding(sizes.n_items, 2 * spec.dim) if spec.past > 0 else None
        self.features = (
            nn.Linear(sizes.n_features, 2 * spec.dim, bias=False) if sizes.n_features > 0 else None
        )
        self.user_half = nn.Linear(spec.dim, self.first)
        self.item_half = nn.Linear(spec.dim, self.first, bias=False)
        self.rest = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(spec.layers[:-1], spec.layers[1:], strict=True)
        )
        self.out_product = nn.Linear(spec.dim, 1, bias=False)
        self.out_network = nn.Linear(spec.layers[-1], 1)
        nn.init.zeros_(self.users.weight)
        nn.init.normal_(self.items.weight, std=spec.spread)
        nn.init.zeros_(self.out_network.bias)
        nn.init.ones_(self.out_product.weight)  # the product starts as a plain factorisation
        if self.implicit is not None:
            nn.init.normal_(self.implicit.weight, std=spec.spread)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [h ⊙ p_u, A p'_u + a]: the user's part of both halves."""
        vector = user_rows(self.users, context.user)
        if self.implicit is not None:
            vector = vector + clicked_mean(self.implicit, context, self.past)
        if self.features is not None:
            vector = vector + self.features(context.features)
        product, network = vector.tensor_split(2, dim=1)
        return torch.cat([product * self.out_product.weight, self.user_half(network)], dim=1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Add the two halves; memory is user × cand × the widest layer, so ask in chunks of users."""
        state = self.encode(context) if state is None else state
        user_product, user_first = state.tensor_split([self.dim], dim=1)
        shared = shared_candidates(context)
        items = context.candidates if shared is None else shared
        if items.numel() < self.sizes.n_items:
            product, network = self.items(items).tensor_split(2, dim=-1)
            first = self.item_half(network)
        else:  # each item's half of the first layer once, however often it is a candidate
            product, network = self.items.weight.tensor_split(2, dim=-1)
            first = functional.embedding(items, self.item_half(network))
            product = functional.embedding(items, product)
        logit: Tensor
        if shared is None:
            logit = (product @ user_product.unsqueeze(2)).squeeze(2)
        else:
            logit = user_product @ product.T
        hidden = functional.relu(user_first.unsqueeze(1) + first)
        for layer in self.rest:
            hidden = functional.relu(layer(hidden))
        logit = logit + self.out_network(hidden).squeeze(2)
        return logit

    def start(self, logit: float) -> None:
        """Set the intercept of the network's output."""
        if self.out_network.bias.item() == 0:
            nn.init.constant_(self.out_network.bias, logit)
