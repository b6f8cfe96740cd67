"""Bilinear: a network of the user meets what is given of the items, and nothing is learned of an item."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simlab.context import PAD, Catalog, Context
from simlab.rankers._blocks import UserSide, dot, standardised
from simlab.rankers.contract import Ranker, Sizes


class Bilinear(Ranker):
    """logit(u, i) = ⟨W f(p_u), x_i⟩, where x_i is given: numbers, categories and embedding of item i.

    p_u is the user's id, clicked history, features and categories (`UserSide`), f layers with tanh; x_i is
    standardised numbers, categories as 0 or 1, and the given embedding. Items have no weights of their own,
    so what is learned of one holds at once for all that are like it, also for new ones: an agent learns in
    fewer steps with it where the catalogue says what matters. What the catalogue does not say, it cannot
    learn; items of which nothing is given get a learned vector of `dim`.

    Source: Chu and Park (2009), "Personalized recommendation on dynamic content using predictive bilinear
    models", WWW, section 3.1 (s = x W z; the user's side is a network here).

    Args:
        sizes: the data's sizes.
        spec: `dim` of p, `layers` of the network, `past` items of history, `spread` of first vectors.
        catalog: what is known of the items.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 64
        layers: tuple[int, ...] = (64,)
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "bilinear"

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        self.user = UserSide(sizes, spec.dim, spec.past, spec.spread)
        widths = (spec.dim, *spec.layers)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        given = torch.zeros(sizes.n_items, 0) if catalog is None else given_of(catalog)
        self.given: Tensor
        self.register_buffer("given", given)
        self.learned = None if given.shape[1] else nn.Embedding(sizes.n_items, spec.dim)
        if self.learned is not None:
            nn.init.normal_(self.learned.weight, std=spec.spread)
        self.head = nn.Linear(widths[-1], given.shape[1] or spec.dim, bias=False)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return f(p_u)."""
        x: Tensor = torch.tanh(self.user(context))
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return ⟨W state, x_i⟩ of each candidate."""
        state = self.encode(context) if state is None else state
        wish: Tensor = self.head(state)
        return dot(wish, self._items(), context)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return Wᵀ x_i of every item."""
        return self._items() @ self.head.weight

    def _items(self) -> Float[Tensor, "item width"]:
        return self.given if self.learned is None else self.learned.weight


def given_of(catalog: Catalog) -> Float[Tensor, "item width"]:
    """Return x of each item: its standardised numbers, its categories as 0 or 1, its embedding."""
    parts = [standardised(catalog.features.float())]
    for field in catalog.fields:
        known = (field.values != PAD).float()
        table = torch.zeros(len(field.values), field.size, device=known.device)
        parts.append(table.scatter_add_(1, field.values.clamp(min=0), known).clamp_(max=1))
    if catalog.vectors is not None:
        parts.append(catalog.vectors.float())
    return torch.cat(parts, 1)
