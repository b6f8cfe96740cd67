"""AutoRec: a network of one hidden layer that reconstructs a user's clicks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from simlab.context import Catalog, Context
from simlab.rankers._blocks import ContextSide, ItemTable, dot
from simlab.rankers._counts import multi_hot
from simlab.rankers._memory import check_room
from simlab.rankers.contract import Interactions, Ranker, Sizes


class AutoRec(Ranker):
    """logit(u, i) = ⟨w_i, g(V r_u + a + W x + Σ_c e_c)⟩ + b_i, with g the sigmoid.

    r_u is 1 for each item that u clicked, x and c the features and categories of the context. Users are known
    by their clicks alone, so a new one is like any other. [w_i, b_i] also has what is known of the item.

    This is the paper's U-AutoRec for clicks: the input of an item that was not clicked is 0, and the loss is
    over all items, where the paper has that of the known ratings. Inputs are dropped out in training, which
    the paper has not: else the clicks that are asked for need only be copied.

    Memory is 4 (2 dim + 1) bytes for each item, four times that in training (gradients and AdamW's two
    means), and about 20 bytes for each item and user of a batch. A million items by the settings below take
    1.5 GiB, 6 GiB in training, and 2.4 GiB for a batch of 128 users.

    Source: Sedhain, Menon, Sanner and Xie (2015), "AutoRec: autoencoders meet collaborative filtering", WWW
    companion, equation 2.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the hidden layer, `dropout` of the input, `past` items of history, `spread` of the
            first weights.
        catalog: what is known of the items.

    Raises:
        BadInput: for no past, a dropout that is no share, or if the machine has less memory.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 200
        dropout: float = 0.5
        past: int = 1000
        spread: float = 0.05

    name: ClassVar[str] = "autorec"
    least: ClassVar[Mapping[str, int]] = {"past": 1}
    recipe: ClassVar[Mapping[str, Any]] = {
        "unit": "user",
        "loss": "bce",
        "epochs": 100,
        "batch_size": 128,
        "learning_rate": 0.003,
        "weight_decay": 0.1,
        "judge": "ndcg",
        "patience": 15,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.past = spec.past
        self.clicked = nn.Linear(sizes.n_items, spec.dim)
        self.side = ContextSide(sizes, spec.dim, spec.spread)
        self.items = ItemTable(sizes.n_items, spec.dim + 1, catalog, spec.spread)  # [w_i, b_i]
        self.dropout = nn.Dropout(spec.dropout)
        nn.init.normal_(self.clicked.weight, std=spec.spread)
        nn.init.zeros_(self.clicked.bias)
        nn.init.zeros_(self.items.ids.weight[:, -1])

    @classmethod
    def check(cls, sizes: Sizes, spec: Spec) -> None:
        """Refuse weights that the machine cannot hold."""
        n = sizes.n_items
        check_room(cls.name, "the weights", n, 4 * n * (2 * spec.dim + 1))

    def prepare(self, seen: Interactions) -> None:
        """Count nothing.

        Raises:
            BadInput: if there is not the memory to train so many weights.
        """
        n = self.sizes.n_items
        size = 16 * n * (2 * self.spec.dim + 1)
        check_room(self.name, "and train the weights", n, size, seen.item.device.type)

    def encode(self, context: Context) -> Float[Tensor, "user dim"]:
        """Return [the hidden layer, 1]."""
        clicks = self.dropout(multi_hot(context, self.past, self.sizes.n_items))
        hidden = (self.clicked(clicks) + self.side(context.features, context.categories)).sigmoid()
        return functional.pad(hidden, (0, 1), value=1.0)

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        """Return inner products: one matrix product where all rows share their candidates."""
        state = self.encode(context) if state is None else state
        return dot(state, self.item_vectors(), context)

    def score_all(self, context: Context) -> Float[Tensor, "user item"]:
        """Reconstruct the whole catalogue."""
        return self.encode(context) @ self.item_vectors().T

    def item_vectors(self) -> Float[Tensor, "item dim"]:
        """Return [w_i, b_i]."""
        return self.items.all()
