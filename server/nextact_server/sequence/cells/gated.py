"""A recurrence whose decay each event decides: the real-gated linear recurrent unit (De et al. 2024, Griffin).

Recurrences of this kind serve recommendation in RecBLR (Liu et al. 2024) and Mamba4Rec (Liu et al. 2024).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextact_server.sequence.cells.linear_scan import linear_scan
from nextact_server.sequence.cells.packing import Packing
from nextact_server.sequence.cells.residual import Recurrence

_SLOWEST, _FASTEST = 0.998, 0.5
"""Decays per event that the channels start from, spread evenly."""
_REACH = 2.0
"""A channel's decay can go from 1 to the square of its own; half way where the gate is undecided."""

_FLOOR = 1e-6
"""Keeps the square root away from 0, where its slope has no end."""


class GatedRecurrence(Recurrence):
    """h = a h + sqrt(1 - a^2) (i v), with decay a and input gate i read from the event; out = h gelu(g), projected."""

    def __init__(self, dim: int, width: int) -> None:
        """Make a layer of `width` channels between rows of `dim`."""
        super().__init__()
        self.width = width
        self.read = nn.Linear(dim, 4 * width)
        self.write = nn.Linear(width, dim)
        decay = torch.linspace(_FASTEST, _SLOWEST, width)
        self.rate = nn.Parameter(torch.log(torch.expm1(-torch.log(decay))))

    def forward(self, x: Tensor, start: Tensor, packing: Packing | None) -> tuple[Tensor, Tensor]:
        """See Recurrence."""
        told = self.read(x).float()
        value, gate = told[:, : self.width], told[:, 3 * self.width :].contiguous()  # gelu is slow on a slice
        decay, entry = torch.sigmoid(told[:, self.width : 3 * self.width]).chunk(2, dim=-1)
        kept = torch.exp2(decay * (-_REACH / math.log(2.0) * F.softplus(self.rate)))  # exp takes three times as long
        entering = torch.sqrt(1.0 + _FLOOR - kept * kept) * (entry * value)
        states = linear_scan(kept, entering, start, packing)
        return self.write(states * F.gelu(gate)), states
