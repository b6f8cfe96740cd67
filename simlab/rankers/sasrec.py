"""SASRec: a transformer reads the clicks from the left, and the last state chooses the next item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from simlab.context import Catalog
from simlab.rankers._sequence import ForwardRanker
from simlab.rankers._transformer import Transformer, check_heads, positions
from simlab.rankers.contract import Sizes


class SASRec(ForwardRanker):
    """h = T(√d v_{s_1} + p_1, …, √d v_{s_n} + p_n) and logit(i) = ⟨h_n, v_i⟩, with one table of item vectors.

    Every item sees itself and what came before it. Positions are counted from the oldest item of the window,
    p_1, so a state is the same in a window as at the end of a shorter one: training and serving agree.

    Source: Kang and McAuley (2018), "Self-attentive sequential recommendation", ICDM, equations 1 to 6.
    Where we differ: the norms stand before the parts and the attention has an output map (see
    `_transformer`); no dropout on the attention weights; the loss is the softmax over the catalogue instead
    of a binary one with one drawn item (Klenitskiy and Vasilev 2023, "Turning dross into gold loss: is
    BERT4Rec really better than SASRec?", RecSys).

    Args:
        sizes: the data's sizes.
        spec: `dim` of every vector, `past` items of history, `blocks`, `heads` of each, `dropout` and
            `spread` of the first vectors.
        catalog: what is known of the items; it goes into their vectors.

    Raises:
        BadInput: if `heads` does not divide `dim`, or a history is longer than `past`.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 64
        past: int = 200
        blocks: int = 2
        heads: int = 2
        dropout: float = 0.2
        spread: float = 0.02

    name: ClassVar[str] = "sasrec"
    recipe: ClassVar[Mapping[str, Any]] = {
        "unit": "token",
        "loss": "softmax",
        "epochs": 100,
        "min_steps": 16,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "patience": 20,
        "bf16": True,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.places = nn.Embedding(spec.past, spec.dim)
        nn.init.normal_(self.places.weight, std=spec.spread)
        self.body = Transformer(spec.dim, spec.blocks, spec.heads, spec.dim, spec.dropout)

    @classmethod
    def check(cls, sizes: Sizes, spec: Spec) -> None:
        """Refuse heads that do not divide `dim`."""
        check_heads(cls.name, spec.dim, spec.heads)

    def states(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        """Return what the transformer says at each item."""
        x = self.items(history) * self.items.dim**0.5
        found: Tensor = self.body(x + positions(self.places, history.shape[1]))
        return found
