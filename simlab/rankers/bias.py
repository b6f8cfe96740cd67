"""Biases alone: a logistic regression on who, what, and what is known of both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable, UserSide, dot
from simlab.rankers.contract import Ranker, Sizes


class Bias(Ranker):
    """logit(u, i) = μ + b_u + w·x + Σ_c a_c + b_i + f·x_i + Σ_f mean a_f: no vector meets another.

    x and c are the features and categories of the context, x_i and f those of the item (and its given
    embedding); what there is not is left out. Every weight starts at zero, and is shrunk by the recipe's
    weight decay. It is the floor of click prediction: all users get the same order of items.

    Source: Koren, Bell and Volinsky (2009), "Matrix factorization techniques for recommender systems",
    equation 3, as a logistic regression.

    Args:
        sizes: the data's sizes.
        spec: has no settings.
        catalog: what is known of the items.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family: none."""

    name: ClassVar[str] = "bias"
    recipe: ClassVar[Mapping[str, Any]] = {"loss": "bce", "split": "round"}

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.user = UserSide(sizes, 1, past=0, spread=0.0)
        self.items = ItemTable(sizes.n_items, 1, catalog, spread=0.0)
        self.bias = nn.Parameter(torch.zeros(()))
        for weight in self.parameters():
            nn.init.zeros_(weight)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [1, what is said of the user and the moment]."""
        said: Tensor = self.bias + self.user(context)
        return torch.cat([torch.ones_like(said), said], dim=1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Add the item's side to the user's."""
        state = self.encode(context) if state is None else state
        return dot(state[:, :1], self.items.all(), context) + state[:, 1:]

    def start(self, logit: float) -> None:
        """Set μ."""
        if self.bias.item() == 0:
            nn.init.constant_(self.bias, logit)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [what is said of the item, 1]."""
        said = self.items.all()
        return torch.cat([said, torch.ones_like(said)], dim=1)
