"""LSTM: GRU4Rec with a cell that has a memory of its own."""

from typing import ClassVar

from torch import nn

from simlab.rankers.gru4rec import GRU4Rec


class LSTM(GRU4Rec):
    """(h_t, c_t) = LSTM(h_{t-1}, c_{t-1}, v_{s_t}) and logit(i) = ⟨W h_n + b, v_i⟩; the rest is GRU4Rec's.

    Source: Hochreiter and Schmidhuber (1997), "Long short-term memory", Neural Computation 9(8), with the
    forget gate of Gers, Schmidhuber and Cummins (2000), "Learning to forget", Neural Computation 12(10).
    """

    name: ClassVar[str] = "lstm"
    cell: ClassVar[type[nn.GRU] | type[nn.LSTM]] = nn.LSTM
