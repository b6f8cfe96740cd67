"""NFM: a perceptron over the fields' pairwise interactions, pooled to one vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from simlab.context import Catalog
from simlab.rankers._fields import FieldRanker, Layers, interactions
from simlab.rankers.contract import Sizes


class NFM(FieldRanker):
    """logit = w_0 + Σ_f x_f w_f + wᵀ MLP(Σ_{f<g} x_f v_f ⊙ x_g v_g).

    The pooled vector splits: pairs of two user fields are one vector per user, pairs of two item fields one
    per item, and all pairs across are (Σ_user v) ⊙ (Σ_item v).

    Source: He and Chua (2017), "Neural factorization machines for sparse predictive analytics", SIGIR,
    equations 2 to 5. Dropout is on the pooled vector and on the hidden layers, as there; their batch
    normalisation is left out, so that a row's score never depends on the rest of its batch.

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

        dim: int = 16
        layers: tuple[int, ...] = (64,)
        dropout: float = 0.0
        past: int = 50
        spread: float = 0.05

    name: ClassVar[str] = "nfm"
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
        self.first = nn.Linear(spec.dim, self.rest.first)
        self.parts = [spec.dim, spec.dim, 1]

    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return [Σ v, pairs, Σ w + w_0]."""
        total, pairs, weight = self._side(fields)
        return torch.cat([total, pairs, weight + self.bias], 1)

    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return [Σ v, pairs, Σ w]."""
        return torch.cat(self._side(fields), 1)

    def _side(self, fields: Float[Tensor, "row field width"]) -> tuple[Tensor, Tensor, Tensor]:
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        total = vectors.sum(1)
        return total, interactions(vectors, total), weights.sum(1)

    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Pool the interactions of both sides and across, and ask the MLP."""
        u_total, u_pairs, u_weight = torch.split(user.unsqueeze(1), self.parts, 2)
        i_total, i_pairs, i_weight = torch.split(item, self.parts, 2)
        pooled = self.rest.drop(torch.addcmul(u_pairs + i_pairs, u_total, i_total))
        logit: Tensor = self.rest(self.first(pooled)) + u_weight + i_weight
        return logit.squeeze(2)
