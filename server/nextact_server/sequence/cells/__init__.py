"""The recurrent cells, and how one is chosen."""

from nextact_server.sequence.cells.cell import Cell
from nextact_server.sequence.cells.gated import GatedRecurrence
from nextact_server.sequence.cells.lru import LinearRecurrence
from nextact_server.sequence.cells.recurrent import GRU, LSTM
from nextact_server.sequence.cells.residual import ResidualStack
from nextact_server.sequence.cells.sasrec import SASRec
from nextact_server.sequence.config import SequenceConfig

__all__ = ["Cell", "build_cell"]


def build_cell(config: SequenceConfig) -> Cell:
    """Return the cell that `config.cell` names, with fresh weights."""
    match config.cell:
        case "gru":
            return GRU(config.input_dim, config.hidden_dim, config.dropout)
        case "lstm":
            return LSTM(config.input_dim, config.hidden_dim, config.dropout)
        case "lru":
            return ResidualStack(config, LinearRecurrence)
        case "gated":
            return ResidualStack(config, GatedRecurrence)
        case "sasrec":
            return SASRec(config)
