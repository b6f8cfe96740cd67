"""Wide & deep: first-order weights and crosses beside a perceptron."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.errors import BadInput
from simlab.rankers._blocks import shared_candidates
from simlab.rankers._fields import FieldRanker, Layers, SplitLinear
from simlab.rankers.contract import Sizes

_PRIMES = (2654435761, 40503)
"""Multipliers of the hash (Knuth, volume 3, section 6.4)."""


class WideDeep(FieldRanker):
    """logit = b + Σ_f x_f w_f + Σ_{crosses k} w_{h(k)} + wᵀ MLP([x_1 v_1, …, x_F v_F]).

    The wide part is linear in the fields and, if `crosses` is above 0, in crosses: every category of the
    context with the item's id and with each of its categories (the mean over a field's values). A cross is
    hashed to one of `crosses` weights, so collisions are possible, and an unknown category crosses with
    nothing. The user's id crosses with nothing either: it would name single rows.

    The first layer of the MLP is linear in the concatenation, so it is split: A u is part of the user's
    state, B i is made once per item.

    Source: Cheng et al. (2016), "Wide & deep learning for recommender systems", DLRS, equations 1 and 3. They
    train the wide part with FTRL; ours has the one optimiser that `fit` has.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the vectors, `layers` of the MLP and its `dropout`, `crosses` hashed weights, `past`
            items of history, `spread` of the first vectors.
        catalog: what is known of the items.

    Raises:
        BadInput: if the MLP has no layer, for a dropout outside [0, 1), for a negative number of crosses, or
            for crosses without categories in the context.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 10
        layers: tuple[int, ...] = (128, 128, 128)
        dropout: float = 0.0
        crosses: int = 0
        past: int = 50
        spread: float = 0.01

    name: ClassVar[str] = "wide_deep"
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
        if spec.crosses and not sizes.categories:
            raise BadInput("crosses of wide_deep are with the context's categories, and there are none")
        self.rest = Layers(self.name, spec.layers, spec.dropout)
        self.first = SplitLinear(self.user_width, self.item_width, self.rest.first)
        self.crosses = nn.Parameter(torch.zeros(spec.crosses)) if spec.crosses else None

    def user_side(self, fields: Float[Tensor, "user field width"]) -> Float[Tensor, "user dim"]:
        """Return [Σ w + b, A u + a]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        return torch.cat([weights.sum(1) + self.bias, self.first.user(vectors.flatten(1))], 1)

    def item_side(self, fields: Float[Tensor, "item field width"]) -> Float[Tensor, "item side"]:
        """Return [Σ w, B i]."""
        vectors, weights = torch.split(fields, [self.dim, 1], 2)
        return torch.cat([weights.sum(1), self.first.item(vectors.flatten(1))], 1)

    def pair(
        self, user: Float[Tensor, "user dim"], item: Float[Tensor, "#user cand side"]
    ) -> Float[Tensor, "user cand"]:
        """Return the first-order weights, and what the MLP makes of the first layer's sums."""
        u_weight, u_first = torch.split(user.unsqueeze(1), [1, self.rest.first], 2)
        i_weight, i_first = torch.split(item, [1, self.rest.first], 2)
        logit: Tensor = self.rest(u_first + i_first) + i_weight + u_weight
        return logit.squeeze(2)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Add the crosses, where there are any: memory is user × cand × category × value of the item."""
        logit = super().score(context, state)
        if self.crosses is None or context.categories is None:
            return logit
        shared = shared_candidates(context)
        items = context.candidates if shared is None else shared.unsqueeze(0)
        return logit + self._crossed(context, self.crosses, items)

    def _crossed(
        self, context: Context, weights: Float[Tensor, " bucket"], items: Int[Tensor, "row cand"]
    ) -> Float[Tensor, "user cand"]:
        """Return Σ over categories and item fields of the mean weight of their crosses."""
        table = self.item_fields.table.num_embeddings - 1
        ids = self.user_fields.ids(context)[:, -self.user_fields.n_categories :]
        assert self.user_fields.table is not None
        known = ids < self.user_fields.table.num_embeddings - 1
        values = self.item_fields.ids[items]  # [row cand value]
        share = self.item_fields.share[items] * (values < table)
        left = (ids * _PRIMES[0])[:, None, :, None]
        bucket = (left ^ ((values + 1) * _PRIMES[1])[:, :, None, :]) % len(weights)
        found = functional.embedding(bucket, weights.unsqueeze(1)).squeeze(-1)  # [user cand category value]
        return torch.einsum("ucfv,uf,ucv->uc", found, known.to(found.dtype), share.expand(len(ids), -1, -1))
