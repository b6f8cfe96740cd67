"""GMF: a factorisation whose dimensions have weights of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.rankers._ncf import NCF, RECIPE
from simlab.rankers.contract import Sizes


class GMF(NCF):
    """logit(u, i) = μ + ⟨h, p_u ⊙ q_i⟩: the first half of NeuMF alone.

    What p, q and h are, and where we differ from the paper, is said in `simlab/rankers/_ncf.py`.

    Source: He et al. (2017), "Neural collaborative filtering", WWW, equations 8 and 9.

    Args:
        sizes: the data's sizes.
        spec: `dim` of p and q, `past` items of history, `spread` of the first vectors.
        catalog: what is known of the items.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 32
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "gmf"
    recipe: ClassVar[Mapping[str, Any]] = RECIPE

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog, product=True)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [h ⊙ p_u, μ]: the score is its inner product with an item's vector."""
        state = super().encode(context)
        return torch.cat([state, self.bias.expand(len(state), 1)], dim=1)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products: one matrix product where all rows share their candidates."""
        state = self.encode(context) if state is None else state
        return super().score(context, state[:, :-1])

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [q_i, 1]."""
        vectors = self.items.all()
        return torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
