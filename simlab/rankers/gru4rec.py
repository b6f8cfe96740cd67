"""GRU4Rec: a gated recurrent network reads the clicks, and its last state chooses the next item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from simlab.context import Catalog
from simlab.rankers._sequence import ForwardRanker
from simlab.rankers._transformer import thin
from simlab.rankers.contract import Sizes


class GRU4Rec(ForwardRanker):
    """h_t = GRU(h_{t-1}, v_{s_t}) and logit(i) = ⟨W h_n + b, v_i⟩, with one table of item vectors.

    Source: Hidasi et al. (2016), "Session-based recommendations with recurrent neural networks", ICLR,
    equations 1 to 4. Where we differ: one table holds the vectors of input and output (the constrained
    embedding of Hidasi and Karatzoglou 2018, "Recurrent neural networks with top-k gains", CIKM); windows of
    users with a target at every token replace mini-batches of parallel sessions, which carry the state over;
    the loss is the softmax over the catalogue. PyTorch's cell resets U h instead of h.

    Args:
        sizes: the data's sizes.
        spec: `dim` of the item vectors, `past` items of history, `inner` width of h, `layers` of cells,
            `dropout` of the input, between layers and of h, `spread` of the first vectors.
        catalog: what is known of the items; it goes into their vectors.

    Raises:
        BadInput: if `dropout` is no share.
    """

    @dataclass(frozen=True)
    class Spec:
        """Settings of the family."""

        dim: int = 64
        past: int = 200
        inner: int = 128
        layers: int = 1
        dropout: float = 0.2
        spread: float = 0.1

    name: ClassVar[str] = "gru4rec"
    cell: ClassVar[type[nn.GRU] | type[nn.LSTM]] = nn.GRU
    recipe: ClassVar[Mapping[str, Any]] = {
        "unit": "token",
        "loss": "softmax",
        "epochs": 60,
        "min_steps": 16,
        "learning_rate": 0.002,
        "weight_decay": 0.0,
        "patience": 15,
        "bf16": True,
    }

    def __init__(self, sizes: Sizes, spec: Spec, catalog: Catalog | None = None) -> None:
        super().__init__(sizes, spec, catalog)
        self.dropout = spec.dropout
        self.cells = self.cell(
            spec.dim,
            spec.inner,
            num_layers=spec.layers,
            batch_first=True,
            dropout=spec.dropout if spec.layers > 1 else 0.0,
        )
        self.out = nn.Linear(spec.inner, spec.dim)

    def states(self, history: Int[Tensor, "user past"]) -> Float[Tensor, "user past dim"]:
        """Return W h + b after each item."""
        x = thin(self.items(history), self.dropout, self.training)
        with torch.autocast("cpu", enabled=False):  # hundreds of steps in bf16 are neither exact nor faster
            h = self.cells(x)[0]
        found: Tensor = self.out(thin(h, self.dropout, self.training))
        return found
