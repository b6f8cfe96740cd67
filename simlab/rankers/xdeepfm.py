"""xDeepFM: a compressed interaction network, a perceptron and first-order weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simlab.context import Catalog
from simlab.errors import BadInput
from simlab.rankers._fields import FieldRanker, Layers, SplitLinear
from simlab.rankers.contract import Sizes


class XDeepFM(FieldRanker):
    """logit = b + Σ_f x_f w_f + Σ_k w_kᵀ p^k + wᵀ MLP([x_1 v_1, …, x_F v_F]).

    X^0 holds the fields' vectors, X^k_h = Σ_{i, j} W^{k,h}_{ij} X^{k-1}_i ⊙ X^0_j, and p^k_h is the sum of
    X^k_h over its dimensions: layer k sees interactions of k + 1 fields, vector by vector.

    Two things make it fast, and change no score. Pairs of two user fields in the first layer are made once
    per user, those of two item fields once per item. The last layer is only ever summed, so it is never laid
    out: w_Tᵀ p^T = Σ_{h, d} X^{T-1}_{hd} Q_{hd}, with Q = M X^0 and M_{hj} = Σ_g w_{T,g} W^{T,g}_{hj}; and Q
    splits into a user's and an item's part again.

    Source: Lian et al. (2018), "xDeepFM: combining explicit and implicit feature interactions for
    recommender systems", KDD, equations 6 to 8 and 10 (no activation in the network, as there).

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `cross` feature maps of each interaction layer, `layers` of the MLP and
            its `dropout`, `past` items of history, `spread` of the first vectors.
        catalog: what is known of the items.

    Raises:
        BadInput: if the network or the MLP has no layer, or for a dropout outside [0, 1).
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 10
        cross: tuple[int, ...] = (32, 32)
        layers: tuple[int, ...] = (128, 128)
        dropout: float = 0.0
        past: int = 50
        spread: float = 0.01

    name: ClassVar[str] = "xdeepfm"
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch_size": 512,
        "learning_rate": 5e-4,
        "weight_decay": 1.0,
        "epochs": 30,
        "patience": 5,
        "split": "round",
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        if not spec.cross:
            raise BadInput("xdeepfm needs at least one layer of interactions, and cross is empty")
        self.n_user, self.n_item = self.user_fields.count, self.item_fields.count
        n = self.n_user + self.n_item
        self.maps = nn.ParameterList()
        self.outs = nn.ParameterList()
        before = n
        for size in spec.cross:
            self.maps.append(torch.randn(size, before, n) / (before * n) ** 0.5)
            self.outs.append(torch.randn(size) / size**0.5)
            before = size
        self.rest = Layers(self.name, spec.layers, spec.dropout)
        self.first = SplitLinear(self.user_width, self.item_width, self.rest.first)
        # The maps that go into the last layer: the fields themselves if there is one layer only.
        into = (n, *spec.cross)[-2]
        d = spec.dim
        alone = d * spec.cross[0] if len(spec.cross) > 1 else 0
        self.user_parts = [1, self.rest.first, d * self.n_user, d * into, alone]
        self.item_parts = [1, self.rest.first, d * self.n_item, d * into, alone]

    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return [Σ w + b, A u + a, u, Q's part, X^1's part], the vectors by dimension, then field."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        first = self.first.user(vectors.flatten(1))
        return torch.cat([weights.sum(1) + self.bias, first, *self._crossed(vectors, 0)], 1)

    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return [Σ w, B i, i, Q's part, X^1's part]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        first = self.first.item(vectors.flatten(1))
        return torch.cat([weights.sum(1), first, *self._crossed(vectors, self.n_user)], 1)

    def _crossed(self, vectors: Float[Tensor, "row field dim"], begin: int) -> list[Tensor]:
        """Return one side's fields, and its parts of Q and of the first layer."""
        x = vectors.transpose(1, 2).contiguous()  # [row dim field]: one matrix product for all dimensions
        mine = slice(begin, begin + x.shape[2])
        last = torch.einsum("g,ghj->hj", self.outs[-1], self.maps[-1])
        said = [x, x @ last[:, mine].T]
        if len(self.maps) > 1:
            own = (x.unsqueeze(3) * x.unsqueeze(2)).flatten(2)
            said.append(own @ self.maps[0][:, mine, mine].flatten(1).T)
        return [each.flatten(1) for each in said]

    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Return the interactions across and above, and what the MLP makes of the first layer's sums."""
        u_weight, u_first, u, u_last, u_own = torch.split(user.unsqueeze(1), self.user_parts, 2)
        i_weight, i_first, i, i_last, i_own = torch.split(item, self.item_parts, 2)
        deep: Tensor = self.rest(u_first + i_first)
        logit: Tensor = (deep + u_weight + i_weight).squeeze(2)
        u, i, last = (self._by_dim(x) for x in (u, i, u_last + i_last))
        if len(self.maps) == 1:
            return (
                logit
                + (u * last[..., : self.n_user]).sum((2, 3))
                + (i * last[..., self.n_user :]).sum((2, 3))
            )
        across = self.maps[0][:, : self.n_user, self.n_user :]
        across = across + self.maps[0][:, self.n_user :, : self.n_user].transpose(1, 2)
        products = (u.unsqueeze(4) * i.unsqueeze(3)).flatten(3)
        x = products @ across.flatten(1).T + self._by_dim(u_own + i_own)
        for layer, out in zip(list(self.maps)[1:-1], list(self.outs)[:-2], strict=True):
            logit = logit + (x.sum(2) @ out)
            x = self._next(x, u, i, layer)
        logit = logit + (x * (last + self.outs[-2])).sum((2, 3))
        return logit

    def _next(
        self,
        x: Float[Tensor, "user cand dim map"],
        u: Float[Tensor, "user 1 dim field"],
        i: Float[Tensor, "#user cand dim other"],
        layer: Float[Tensor, "next map all"],
    ) -> Float[Tensor, "user cand dim next"]:
        """Return Σ_{h, j} W_{hj} X_h ⊙ X^0_j: a matrix for each field j, weighed by the field."""
        fields = torch.cat([u.expand(*x.shape[:3], -1), i.expand(*x.shape[:3], -1)], 3)
        each = (x @ layer.permute(1, 2, 0).flatten(1)).view(*fields.shape, len(layer))
        found: Tensor = (fields.unsqueeze(3) @ each).squeeze(3)
        return found

    def _by_dim(self, x: Float[Tensor, "row cand each"]) -> Float[Tensor, "row cand dim map"]:
        return x.reshape(*x.shape[:2], self.dim, x.shape[2] // self.dim)
