"""FM: a factorisation machine over the fields of user, moment and item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from simlab.rankers._fields import FieldRanker, alone, products


class FM(FieldRanker):
    """logit = w_0 + Σ_f x_f w_f + Σ_{f<g} x_f x_g ⟨v_f, v_g⟩ over the fields of user, moment and item.

    The pairs are summed as ½ [‖Σ x v‖² - Σ ‖x v‖²], and they split: pairs of two user fields are one number
    per user, pairs of two item fields one number per item, and all pairs across are the inner product of the
    sides' sums. So the score is an inner product, and has item vectors.

    Source: Rendle (2010), "Factorization machines", ICDM, equation 1 and lemma 3.1. A field of several values
    is their mean (x = 1 / count), and so is the history.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `past` items of history, `spread` of the first vectors.
        catalog: what is known of the items.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 10
        past: int = 50
        spread: float = 0.1

    name: ClassVar[str] = "fm"
    recipe: ClassVar[Mapping[str, Any]] = {
        "batch_size": 512,
        "learning_rate": 1e-3,
        "weight_decay": 0.3,
        "epochs": 30,
        "patience": 5,
        "split": "round",
    }

    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return [Σ v, 1, Σ w + pairs + w_0]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        total = vectors.sum(1)
        own = alone(vectors, weights, total) + self.bias
        return torch.cat([total, torch.ones_like(own), own], 1)

    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return [Σ v, Σ w + pairs, 1]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        total = vectors.sum(1)
        own = alone(vectors, weights, total)
        return torch.cat([total, own, torch.ones_like(own)], 1)

    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Return inner products."""
        return products(user, item)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [Σ v, Σ w + pairs, 1]."""
        return self.item_side(self.item_fields(None))
