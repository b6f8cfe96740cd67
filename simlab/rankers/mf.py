"""Matrix factorisation: a vector per user, a vector per item, and what the user clicked before."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable, UserSide, dot
from simlab.rankers.contract import Ranker, Sizes


class MF(Ranker):
    """logit(u, i) = μ + b_u + b_i + ⟨p_u, q_i⟩.

    [p_u, b_u] = the id's + mean over clicked j of y_j + W x + Σ_c e_c is `UserSide`, x and c the features and
    categories of the context; [q_i, b_i] = the id's + F x_i + Σ_f e_f + P g_i is `ItemTable`. So what is
    known of users and items says something by itself (b) and together (p and q).

    The implicit term y_j lets a user who was not there in training be personalised from the history alone. It
    is a mean, where the paper divides by √|N(u)|, so that a long history does not outweigh the id. The id's
    [p_u, b_u] starts at zero, so a user without training data scores like a new user.

    Source: Koren (2008), "Factorization meets the neighborhood", KDD, equation 15 (SVD++); Koren, Bell and
    Volinsky (2009), "Matrix factorization techniques for recommender systems", equations 4 (biases) and 6
    (attributes).

    Args:
        sizes: the data's sizes.
        spec: `dim` of p and q, `past` items of history, `spread` of the first weights.
        catalog: what is known of the items.
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
        self.past, self.dim = spec.past, spec.dim
        # The last column is the bias, so that one lookup fetches both.
        self.user = UserSide(sizes, spec.dim + 1, spec.past, spec.spread)
        self.items = ItemTable(sizes.n_items, spec.dim + 1, catalog, spec.spread)
        self.bias = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.items.ids.weight[:, -1])
        if self.user.history is not None:
            nn.init.zeros_(self.user.history.weight[:, -1])

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [p_u, 1, μ + b_u]: the score is its inner product with an item's vector."""
        vector, own = self._user(context)
        return torch.cat([vector, torch.ones_like(own), own], dim=1)

    def _user(self, context: Context) -> tuple[Float[Tensor, "user dim"], Float[Tensor, "user one"]]:
        """Return p_u and μ + b_u."""
        vector, bias = self.user(context).split([self.dim, 1], dim=1)
        return vector, self.bias + bias

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products: one matrix product where all rows share their candidates."""
        if state is None:
            vector, own = self._user(context)
            state = torch.cat([vector, torch.ones_like(own)], dim=1)
        else:
            state, own = state[:, :-1], state[:, -1:]
        return dot(state, self.items.all(), context) + own

    def start(self, logit: float) -> None:
        """Set μ."""
        if self.bias.item() == 0:
            nn.init.constant_(self.bias, logit)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [q_i, b_i, 1]."""
        vectors = self.items.all()
        return torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
