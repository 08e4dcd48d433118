"""A stack of residual blocks, each a linear recurrence and a feed-forward layer (Orvieto et al. 2023; De et al. 2024).

All but the recurrence itself is row by row, so that training runs in large matrix products and a step costs the same
after ten events as after ten thousand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from nextact_server.sequence.cells.cell import Cell, State
from nextact_server.sequence.cells.enter import enter_layer
from nextact_server.sequence.cells.packing import Packing
from nextact_server.sequence.config import SequenceConfig


class Recurrence(nn.Module, ABC):
    """A recurrent layer between rows of `model_dim`; `width` numbers of state per user."""

    width: int

    @abstractmethod
    def forward(self, x: Tensor, start: Tensor, packing: Packing | None) -> tuple[Tensor, Tensor]:
        """Return the layer's rows, [n, model_dim], and its states after each of them, float32[n, width].

        `start` float32[A, width] are the users' states before; without a packing each user has one row, in that order.
        """


class ResidualStack(Cell):
    """Blocks of recurrence and feed-forward around a residual stream of `model_dim`.

    The state holds each block's recurrent state, "h0", "h1" and so on, and "out", the hidden vector given out last.
    """

    def __init__(self, config: SequenceConfig, recurrence: Callable[[int, int], Recurrence]) -> None:
        """Make `config.layers` blocks of `recurrence(model_dim, hidden_dim)`."""
        super().__init__()
        dim = config.model_dim
        self.output_dim = dim
        self.enter = enter_layer(config)
        self.enter_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            _Block(dim, recurrence(dim, config.hidden_dim), config.feed_forward, config.dropout)
            for _ in range(config.layers)
        )
        self.leave_norm = nn.LayerNorm(dim)
        self._widths = [block.recurrence.width for block in self._each()]

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """See Cell."""
        layers: dict[str, tuple[int, ...]] = {f"h{layer}": (width,) for layer, width in enumerate(self._widths)}
        return layers | {"out": (self.output_dim,)}

    def hidden(self, state: State) -> Tensor:
        """See Cell."""
        return state["out"]

    def step(self, state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        out, states = self._through(x, None, state)
        return out, states | {"out": out}

    def scan(self, x: Tensor, packing: Packing, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """See Cell."""
        out, states = self._through(x, packing, state)
        after = {name: rows[packing.ends] for name, rows in states.items()}
        return out, after | {"out": out[packing.ends]}

    def _through(self, x: Tensor, packing: Packing | None, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.enter_norm(self.enter(x))
        states = {}
        for layer, block in enumerate(self._each()):
            x, states[f"h{layer}"] = block(x, state[f"h{layer}"], packing)
        return self.leave_norm(x).float(), states

    def _each(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)]


class _Block(nn.Module):
    def __init__(self, dim: int, recurrence: Recurrence, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.recurrence = recurrence
        self.dropout = nn.Dropout(dropout)
        self.feed_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, feed_forward * dim)
        self.narrow = nn.Linear(feed_forward * dim, dim)

    def forward(self, x: Tensor, start: Tensor, packing: Packing | None) -> tuple[Tensor, Tensor]:
        told, states = self.recurrence(self.norm(x), start, packing)
        x = x + self.dropout(told)
        wide = self.dropout(F.gelu(self.widen(self.feed_norm(x))))
        return x + self.dropout(self.narrow(wide)), states
