"""Matrix factorisation: a vector per user, a vector per item, and what the user clicked before."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simlab.context import Catalog, Context
from simlab.rankers._blocks import clicked_mean, shared_candidates, user_rows
from simlab.rankers.contract import Ranker, Sizes


class MF(Ranker):
    """logit(u, i) = μ + b_u + b_i + ⟨q_i, p_u + mean_{j clicked by u} y_j + W x⟩.

    The implicit term lets a user who was not there in training be personalised from the history alone:
    such a user has p_u = 0 and b_u = 0. It is a mean, where the paper divides by √|N(u)|, so that a long
    history does not outweigh p_u. x are the context's features, if there are any.

    p_u and b_u start at zero, so a user without training data scores like a new user.

    Source: Koren (2008), "Factorization meets the neighborhood", KDD, equation 15 (SVD++); Koren, Bell and
    Volinsky (2009), "Matrix factorization techniques for recommender systems", equation 4 (biases).

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `past` items of history, `spread` of the first weights.
        catalog: not used.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 32
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "mf"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        self.dim = spec.dim
        self.users = nn.Embedding(sizes.n_users, spec.dim)
        self.user_bias = nn.Embedding(sizes.n_users, 1)
        self.items = nn.Embedding(sizes.n_items, spec.dim)
        self.item_bias = nn.Embedding(sizes.n_items, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        self.implicit = nn.Embedding(sizes.n_items, spec.dim) if spec.past > 0 else None
        self.features = nn.Linear(sizes.n_features, spec.dim, bias=False) if sizes.n_features > 0 else None
        nn.init.zeros_(self.users.weight)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)
        nn.init.normal_(self.items.weight, std=spec.spread)
        if self.implicit is not None:
            nn.init.normal_(self.implicit.weight, std=spec.spread)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [p_u + implicit + W x, 1, μ + b_u]: the score is its inner product with an item's vector."""
        vector = user_rows(self.users, context.user)
        if self.implicit is not None:
            vector = vector + clicked_mean(self.implicit, context, self.past)
        if self.features is not None:
            vector = vector + self.features(context.features)
        bias = self.bias + user_rows(self.user_bias, context.user)
        return torch.cat([vector, torch.ones_like(bias), bias], dim=1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products: one matrix product where all rows share their candidates."""
        state = self.encode(context) if state is None else state
        vector, one, bias = state.tensor_split([self.dim, self.dim + 1], dim=1)
        logit: Tensor
        items = shared_candidates(context)
        if items is not None:
            logit = vector @ self.items(items).T + one * self.item_bias(items).T
        else:
            logit = (self.items(context.candidates) @ vector.unsqueeze(2)).squeeze(2)
            logit = logit + one * self.item_bias(context.candidates).squeeze(2)
        return logit + bias

    def start(self, logit: float) -> None:
        """Set μ."""
        if self.bias.item() == 0:
            nn.init.constant_(self.bias, logit)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [q_i, b_i, 1]."""
        bias = self.item_bias.weight
        return torch.cat([self.items.weight, bias, torch.ones_like(bias)], dim=1)
