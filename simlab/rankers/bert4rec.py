"""BERT4Rec: a transformer that looks both ways fills in masked clicks; a mask at the end is the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from simlab.context import Catalog
from simlab.rankers._sequence import SequenceRanker
from simlab.rankers._transformer import Transformer, check_heads, positions
from simlab.rankers.contract import Sizes


class BERT4Rec(SequenceRanker):
    """h = T(√d v_{s_1} + p_n, …, √d m + p_1) and logit(i) = ⟨h at the mask m, v_i⟩, with one table of v.

    Every item sees every other. Training hides a share of the clicks behind the mask's vector m (`masked`
    of the fit's settings); serving appends m to the newest `past` - 1 clicks. Positions are counted from the
    newest, so that the appended mask always stands at p_1. A user without any click gets what the mask says
    alone.

    Source: Sun et al. (2019), "BERT4Rec: sequential recommendation with bidirectional encoder representations
    from transformer", CIKM, equations 1 to 8. Where we differ: the norms stand before the parts (see
    `_transformer`), no dropout on the attention weights, and neither a network nor a bias of each item in the
    output (equation 7), so that the score is an inner product.

    Args:
        sizes: the data's sizes.
        spec: `dim` of every vector, `past` items that are read at once, the mask among them, `blocks`,
            `heads` of each, `inner` width of their networks, `dropout` and `spread` of the first vectors.
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
        inner: int = 256
        dropout: float = 0.2
        spread: float = 0.02

    name: ClassVar[str] = "bert4rec"
    cloze: ClassVar[bool] = True
    recipe: ClassVar[Mapping[str, Any]] = {
        "unit": "token",
        "loss": "softmax",
        "epochs": 150,
        "batch_size": 1024,
        "min_steps": 16,
        "learning_rate": 0.002,
        "weight_decay": 0.0,
        "masked": 0.3,
        "patience": 20,
        "bf16": True,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.mask = nn.Parameter(torch.empty(spec.dim).normal_(std=spec.spread))
        self.places = nn.Embedding(spec.past, spec.dim)
        nn.init.normal_(self.places.weight, std=spec.spread)
        self.body = Transformer(spec.dim, spec.blocks, spec.heads, spec.inner, spec.dropout, gelu=True)

    @classmethod
    def check(cls, sizes: Sizes, spec: Spec) -> None:
        """Refuse heads that do not divide `dim`."""
        check_heads(cls.name, spec.dim, spec.heads)

    def hidden(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        """Return what the transformer says at each item or mask."""
        x = self.items(history) + (history == self.sizes.n_items).unsqueeze(2) * self.mask
        x = x * self.items.dim**0.5 + positions(self.places, history.shape[1]).flip(0)
        there = history >= 0
        there[:, -1:] = True  # a row of nothing looks at its padding instead of nowhere
        found: Tensor = self.body(x, there[:, None, None, :])
        return found

    def last(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user dim"]:
        """Append the mask, and return the state there."""
        first = max(history.shape[1] - self.past + 1, 0)
        mask = history.new_full((len(history), 1), self.sizes.n_items)
        return self.hidden(torch.cat([history[:, first:], mask], dim=1))[:, -1]
