"""Two towers: one network makes the user's vector, another the item's, and nothing else joins them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ItemTable, UserSide, dot, shared_candidates
from simlab.rankers._towers import Tower
from simlab.rankers.contract import Ranker, Sizes


class TwoTower(Ranker):
    """logit(u, i) = ⟨f(p_u), g(q_i)⟩ / τ, with f and g networks whose output has length 1 by default.

    p_u is the user's id, clicked history, features and categories (`UserSide`), q_i the item's id, features,
    fields and given embedding (`ItemTable`). Trained by the softmax over the batch's own clicks, corrected
    for their popularity; items' vectors are made once for a whole catalogue.

    Source: Yi et al. (2019), "Sampling-bias-corrected neural modeling for large corpus item
    recommendations", RecSys, section 3 and equations 1 to 5 (the share of an item is counted in the training
    clicks, where the paper estimates it in a stream).

    Args:
        sizes: the data's sizes.
        spec: `dim` of p and q, `layers` of each network, `past` items of history, `spread` of the first
            vectors, `unit` length or not, `temperature` τ.
        catalog: what is known of the items.

    Raises:
        BadInput: if the temperature is not above 0, or a layer has no unit.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 64
        layers: tuple[int, ...] = (64,)
        past: int = 50
        spread: float = 0.1
        unit: bool = True
        temperature: float = 0.1

    name: ClassVar[str] = "two_tower"
    recipe: ClassVar[Mapping[str, Any]] = {
        "loss": "softmax",
        "sampler": "in-batch",
        "epochs": 40,
        "split": "round",
        "judge": "ndcg",
        "patience": 6,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past, self.scale = spec.past, 1 / spec.temperature
        self.user = UserSide(sizes, spec.dim, spec.past, spec.spread)
        self.items = ItemTable(sizes.n_items, spec.dim, catalog, spec.spread)
        self.user_tower = Tower(spec.dim, spec.layers, spec.unit)
        self.item_tower = Tower(spec.dim, spec.layers, spec.unit)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return f(p_u) / τ."""
        vector: Tensor = self.user_tower(self.user(context))
        return self.scale * vector

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products; where all rows share a few candidates, the item tower makes these alone."""
        state = self.encode(context) if state is None else state
        items = shared_candidates(context)
        if items is not None and len(items) < self.sizes.n_items:
            vectors: Tensor = self.item_tower(self.items(items))
            return state @ vectors.T
        return dot(state, self.item_vectors(), context)

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return g(q_i) of every item."""
        vectors: Tensor = self.item_tower(self.items.all())
        return vectors
