"""What every cell can do: start, advance users by one event each, and advance them by many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from nextact_server.sequence.cells.packing import Packing

State: TypeAlias = Mapping[str, Tensor]


class Cell(nn.Module, ABC):
    """Turns event inputs float32[n, input_dim] into hidden vectors float32[n, output_dim].

    A state is a dict of float32 tensors with one row per user, named and shaped by `state_spec`; a user without events
    has zeros. Nothing that is given is changed. Scanning equals stepping event by event, to 1e-5.
    """

    output_dim: int

    @abstractmethod
    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every tensor of one user's state."""

    @abstractmethod
    def hidden(self, state: State) -> Tensor:
        """Return float32[users, output_dim]: what the last `step` or `scan` gave out for each user."""

    @abstractmethod
    def step(self, state: State, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Advance every user by one event, `x` float32[users, input_dim]; return the hidden vectors and new states."""

    @abstractmethod
    def scan(self, x: Tensor, packing: Packing, state: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Advance users by all their events.

        `x` float32[n, input_dim] and the rows of `state` are in the order of `packing`, of which every user has at
        least one row; so are the hidden vectors float32[n, output_dim] and the states that are returned.
        """

    def init_state(self, users: int) -> dict[str, Tensor]:
        """Return the states of `users` users without events, on the cell's device."""
        device = next(self.parameters()).device
        return {name: torch.zeros((users, *shape), device=device) for name, shape in self.state_spec().items()}
