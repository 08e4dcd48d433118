"""A recurrence with fixed complex decays: the linear recurrent unit (Orvieto et al. 2023), as LRURec has it (Yue et al.
2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextact_server.sequence.cells.linear_scan import linear_scan
from nextact_server.sequence.cells.packing import Packing
from nextact_server.sequence.cells.residual import Recurrence

_SLOWEST, _FASTEST = 0.999, 0.8
"""Moduli that the decays start from: the ring of LRURec."""


class LinearRecurrence(Recurrence):
    """h = lambda h + gamma B x over complex channels, out = Re(C h) + D x; `width` counts real and imaginary parts."""

    def __init__(self, dim: int, width: int) -> None:
        """Make a layer of `width` // 2 complex channels between rows of `dim`. Raises ValueError for an odd width."""
        super().__init__()
        if width % 2:
            raise ValueError(f"hidden_dim is {width}; a complex recurrence needs an even number")
        self.width = width
        channels = width // 2
        modulus = torch.sqrt(torch.empty(channels).uniform_(_FASTEST**2, _SLOWEST**2))
        self.log_rate = nn.Parameter(torch.log(-torch.log(modulus)))
        self.log_angle = nn.Parameter(torch.log(torch.empty(channels).uniform_(1e-3, math.tau)))
        self.log_gain = nn.Parameter(torch.log(torch.sqrt(1.0 - modulus**2)))
        self.read = nn.Linear(dim, width)
        self.write = nn.Linear(width, dim)
        self.through = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, start: Tensor, packing: Packing | None) -> tuple[Tensor, Tensor]:
        """See Recurrence."""
        decay = torch.exp(torch.complex(-torch.exp(self.log_rate), torch.exp(self.log_angle)))
        real, imaginary = (self.read(x).float() * torch.exp(self.log_gain).repeat(2)).chunk(2, dim=-1)
        before = torch.complex(*(part.contiguous() for part in start.chunk(2, dim=-1)))
        states = linear_scan(decay.expand(x.shape[0], -1), torch.complex(real, imaginary), before, packing)
        both = torch.cat((states.real, states.imag), dim=-1)
        return self.write(both) + self.through * x, both
