"""DCN-v2: explicit crosses of all degrees, beside or below a perceptron."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog
from simlab.errors import BadInput, nearest
from simlab.rankers._fields import FieldRanker, Layers, SplitLinear
from simlab.rankers.contract import Sizes


class DCNv2(FieldRanker):
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, with x_0 = [x_1 v_1, …, x_F v_F], and a perceptron.

    `structure="parallel"`: logit = b + wᵀ [x_L, MLP(x_0)]. `structure="stacked"`: logit = b + wᵀ MLP(x_L).

    With `experts` above 0 each cross layer is a mixture of low-rank ones,
    x_{l+1} = Σ_e G_e(x_l) x_0 ⊙ (U_e tanh(C_e tanh(V_eᵀ x_l)) + b_e) + x_l, G the softmax of a linear map.

    The first cross layer and, in parallel, the MLP's first layer are linear in x_0, so they are split: a part
    per user, a part per item.

    Source: Wang et al. (2021), "DCN V2: improved deep & cross network and practical lessons for web-scale
    learning to rank systems", WWW, equation 1 and, for the mixture, equations 3 and 4.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `crosses` cross layers, `experts` of each (0: full matrices) and their
            `rank`, `layers` of the MLP and its `dropout`, `structure`, `past` items of history, `spread` of
            the first vectors.
        catalog: what is known of the items.

    Raises:
        BadInput: for no cross layer, a structure that there is not, a rank below 1, an MLP without layers, or
            a dropout outside [0, 1).
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 10
        crosses: int = 2
        experts: int = 0
        rank: int = 16
        structure: str = "parallel"
        layers: tuple[int, ...] = (128, 128)
        dropout: float = 0.0
        past: int = 50
        spread: float = 0.01

    name: ClassVar[str] = "dcn_v2"
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch_size": 512,
        "learning_rate": 5e-4,
        "weight_decay": 1.0,
        "epochs": 30,
        "patience": 5,
        "split": "round",
    }
    linear: ClassVar[bool] = False

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        known = ("parallel", "stacked")
        if spec.structure not in known:
            raise BadInput(
                f"structure is parallel or stacked, not {spec.structure}{nearest(spec.structure, known)}"
            )
        u, i = self.user_width, self.item_width
        self.total = u + i
        crosses = [
            _Mixture(u, i, spec.experts, spec.rank) if spec.experts else _Full(u, i)
            for _ in range(spec.crosses)
        ]
        self.crosses = nn.ModuleList(crosses)
        self.inner = [cross.inner for cross in crosses]
        self.parallel = spec.structure == "parallel"
        self.rest = Layers(self.name, spec.layers, spec.dropout, out=False)
        self.first = SplitLinear(u, i, self.rest.first)
        self.out = nn.Linear(self.rest.last + (self.total if self.parallel else 0), 1, bias=False)
        one = crosses[0].width
        deep = self.rest.first if self.parallel else 0
        self.user_parts, self.item_parts = [u, one, deep], [i, one, deep]

    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return [u, the first cross layer's part, A u + a]."""
        x = fields.flatten(1)
        said = [x, self.inner[0].user(x)]
        return torch.cat([*said, self.first.user(x)] if self.parallel else said, 1)

    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return [i, the first cross layer's part, B i]."""
        x = fields.flatten(1)
        said = [x, self.inner[0].item(x)]
        return torch.cat([*said, self.first.item(x)] if self.parallel else said, 1)

    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Cross, and ask the MLP beside or above."""
        u, u_cross, u_first = torch.split(user.unsqueeze(1), self.user_parts, 2)
        i, i_cross, i_first = torch.split(item, self.item_parts, 2)
        shape = (len(user), item.shape[1], -1)
        x_0 = x = torch.cat([u.expand(shape), i.expand(shape)], 2)
        inner = u_cross + i_cross
        for number, cross in enumerate(self.crosses):
            x = cross(x_0, x, self.inner[number](x) if number else inner)
        if self.parallel:
            hidden = torch.cat([x, self.rest(u_first + i_first)], 2)
        else:
            hidden = self.rest(self.first(x))
        logit: Tensor = self.out(hidden)
        return logit.squeeze(2) + self.bias


class _Full(nn.Module):
    """One cross layer with a full matrix.

    Args:
        user: width of the user's part of x_0.
        item: width of the item's part.
    """

    def __init__(self, user: int, item: int) -> None:
        super().__init__()
        self.width = user + item
        self.inner = SplitLinear(user, item, self.width)
        nn.init.xavier_uniform_(self.inner.weight)

    def forward(
        self,
        x_0: Float[Tensor, "user cand all"],
        x: Float[Tensor, "user cand all"],
        inner: Float[Tensor, "user cand all"],
    ) -> Float[Tensor, "user cand all"]:
        """Return x_0 ⊙ (W x + b) + x, given W x + b."""
        return torch.addcmul(x, x_0, inner)


class _Mixture(nn.Module):
    """One cross layer that mixes low-rank experts; what is linear in x is one map for all of them.

    Args:
        user: width of the user's part of x_0.
        item: width of the item's part.
        experts: how many.
        rank: of each.
    """

    def __init__(self, user: int, item: int, experts: int, rank: int) -> None:
        super().__init__()
        self.experts, self.rank = experts, rank
        gates = experts if experts > 1 else 0  # the softmax of one gate is 1
        self.width = experts * rank + gates
        self.inner = SplitLinear(user, item, self.width, bias=False)
        total = user + item
        self.core = nn.Parameter(torch.randn(experts, rank, rank) / rank**0.5)
        self.up = nn.Parameter(torch.randn(experts, rank, total) / rank**0.5)
        self.bias = nn.Parameter(torch.zeros(experts, total))
        nn.init.xavier_uniform_(self.inner.weight)

    def forward(
        self,
        x_0: Float[Tensor, "user cand all"],
        x: Float[Tensor, "user cand all"],
        inner: Float[Tensor, "user cand inner"],
    ) -> Float[Tensor, "user cand all"]:
        """Return Σ_e G_e(x) x_0 ⊙ (U_e tanh(C_e tanh(V_eᵀ x)) + b_e) + x, given [Vᵀ x, gates]."""
        width = self.experts * self.rank
        low, gates = torch.split(inner, [width, self.width - width], 2)
        low = low.reshape(*low.shape[:2], self.experts, self.rank).tanh()
        low = torch.einsum("ucer,ers->uces", low, self.core).tanh()
        if self.experts > 1:
            share = functional.softmax(gates, 2)
            mixed = (low * share.unsqueeze(3)).flatten(2) @ self.up.flatten(0, 1) + share @ self.bias
        else:
            mixed = low.flatten(2) @ self.up.flatten(0, 1) + self.bias[0]
        return torch.addcmul(x, x_0, mixed)
