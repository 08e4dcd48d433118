"""The classic cells: GRU (Cho et al. 2014) and LSTM (Hochreiter and Schmidhuber 1997), one layer of torch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from nextact_server.sequence.cells.cell import Cell, State
from nextact_server.sequence.cells.packing import Packing


class GRU(Cell):
    """A gated recurrent unit; its state "h" is its hidden vector."""

    def __init__(self, input_dim: int, hidden_dim: int, dropout: float) -> None:
        """Make a cell from `input_dim` to `hidden_dim`; in training, `dropout` of what a scan gives out is dropped."""
        super().__init__()
        self.output_dim = hidden_dim
        self.dropout = nn.Dropout(dropout)
        self.recurrent = nn.GRU(input_dim, hidden_dim)

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """See Cell."""
        return {"h": (self.output_dim,)}

    def hidden(self, state: State) -> Tensor:
        """See Cell."""
        return state["h"]

    def step(self, state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        h = torch.gru_cell(x, state["h"], *_weights(self.recurrent))
        return h, {"h": h}

    def scan(self, x: Tensor, packing: Packing, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        output, h = self.recurrent(_packed(x, packing), state["h"][None])
        return self.dropout(output.data), {"h": h[0]}


class LSTM(Cell):
    """A long short-term memory; its state is its hidden vector "h" and its cell "c"."""

    def __init__(self, input_dim: int, hidden_dim: int, dropout: float) -> None:
        """Make a cell from `input_dim` to `hidden_dim`; in training, `dropout` of what a scan gives out is dropped."""
        super().__init__()
        self.output_dim = hidden_dim
        self.dropout = nn.Dropout(dropout)
        self.recurrent = nn.LSTM(input_dim, hidden_dim)

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """See Cell."""
        return {"h": (self.output_dim,), "c": (self.output_dim,)}

    def hidden(self, state: State) -> Tensor:
        """See Cell."""
        return state["h"]

    def step(self, state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        h, c = torch.lstm_cell(x, (state["h"], state["c"]), *_weights(self.recurrent))
        return h, {"h": h, "c": c}

    def scan(self, x: Tensor, packing: Packing, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        output, (h, c) = self.recurrent(_packed(x, packing), (state["h"][None], state["c"][None]))
        return self.dropout(output.data), {"h": h[0], "c": c[0]}


def _weights(recurrent: nn.GRU | nn.LSTM) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights: tuple[Tensor, Tensor, Tensor, Tensor] = recurrent.all_weights[0]  # type: ignore[assignment]
    return weights


def _packed(x: Tensor, packing: Packing) -> PackedSequence:
    return PackedSequence(x, torch.tensor(packing.sizes))
