"""DeepFM: a factorisation machine and a perceptron over the same vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog
from simlab.rankers._fields import FieldRanker, Layers, SplitLinear, alone, products
from simlab.rankers.contract import Sizes


class DeepFM(FieldRanker):
    """logit = FM(x) + wᵀ MLP([x_1 v_1, …, x_F v_F]), with the same vectors v in both.

    The first layer of the MLP is linear in the concatenation, so it is split: A u is part of the user's
    state, B i is made once per item, and C candidates cost one broadcast addition.

    Source: Guo et al. (2017), "DeepFM: a factorization-machine based neural network for CTR prediction",
    IJCAI, equations 1 to 4 (the sigmoid is left to the loss).

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `layers` of the MLP and its `dropout`, `past` items of history, `spread`
            of the first vectors.
        catalog: what is known of the items.

    Raises:
        BadInput: if the MLP has no layer, or for a dropout outside [0, 1).
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 10
        layers: tuple[int, ...] = (128, 128, 128)
        dropout: float = 0.0
        past: int = 50
        spread: float = 0.01

    name: ClassVar[str] = "deepfm"
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
        self.rest = Layers(self.name, spec.layers, spec.dropout)
        self.first = SplitLinear(self.user_width, self.item_width, self.rest.first)
        self.parts = [spec.dim, 1, self.rest.first]

    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return [Σ v, Σ w + pairs, A u + a]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        total = vectors.sum(1)
        own = alone(vectors, weights, total) + self.bias
        return torch.cat([total, own, self.first.user(vectors.flatten(1))], 1)

    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return [Σ v, Σ w + pairs, B i]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        total = vectors.sum(1)
        return torch.cat([total, alone(vectors, weights, total), self.first.item(vectors.flatten(1))], 1)

    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Return the inner product of the sums, and what the MLP makes of the first layer's sums."""
        u_total, u_alone, u_first = torch.split(user, self.parts, 1)
        i_total, i_alone, i_first = torch.split(item, self.parts, 2)
        deep = self.rest(u_first.unsqueeze(1) + i_first)
        logit: Tensor = products(u_total, i_total) + u_alone + (i_alone + deep).squeeze(2)
        return logit
