"""The prior: counted transitions between items, mixed into the next-item scores.

Counting finds what small networks smooth away: pairs of items that follow each other again and again. The table keeps,
for each item, its most frequent successors and their shares (at most a few hundred); a user's prior is the mean of the
rows of their last items, each earlier one counting `decay` times less.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextact_server.sequence.config import FIRST_ITEM, PADDING_ITEM, PriorConfig


class Prior(nn.Module):
    """A table of successors in rows of compressed sparse form.

    Of vocabulary row i the successors are the vocabulary rows `items[starts[i]:starts[i + 1]]`, with `shares` that sum
    to 1 where there are any. `starts` int64[n_items + 1], `items` int32[entries], `shares` float32[entries].
    """

    starts: Tensor
    items: Tensor
    shares: Tensor

    def __init__(self, config: PriorConfig, n_items: int) -> None:
        """Make an empty table of the shape that `config` says, to be loaded."""
        super().__init__()
        self.config = config
        self.register_buffer("starts", torch.zeros(n_items + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(config.entries, dtype=torch.int32))
        self.register_buffer("shares", torch.zeros(config.entries))

    def check(self) -> None:
        """Raise ValueError naming the tensor whose values make no table."""
        starts, entries, rows = self.starts, self.config.entries, len(self.starts) - 1
        if int(starts[0]) != 0 or int(starts[-1]) != entries or bool((starts.diff() < 0).any()):
            raise ValueError(f"prior.starts must rise from 0 to {entries}")
        if entries and not FIRST_ITEM <= int(self.items.min()) <= int(self.items.max()) < rows:
            raise ValueError(f"prior.items must be in [{FIRST_ITEM}, {rows})")
        if entries and not bool(((self.shares > 0) & (self.shares <= 1)).all()):
            raise ValueError("prior.shares must be above 0 and at most 1")

    def mix(self, logits: Tensor, recent: Tensor, columns: Tensor | None = None) -> Tensor:
        """Return log probabilities float32[n, C] of (1 - weight) softmax(logits) + weight prior.

        `logits` float32[n, C], -inf where an item is not offered; `recent` float32[n, reach] or more, vocabulary rows
        of each user's last items, the last one first, PADDING_ITEM where there were fewer. Column c is vocabulary row
        c, unless `columns` int64[n_items] gives each row's column, -1 for none. A user without counted transitions
        gets the softmax alone. What the prior gives to items that are not offered is lost.
        """
        users, width = logits.shape
        user, item, share = self._successors(recent)
        normalizer = torch.logsumexp(logits, dim=1)
        taken = torch.where(torch.isneginf(normalizer), 0.0, normalizer)
        counted = torch.zeros(users, dtype=torch.bool, device=logits.device)
        counted[user] = True
        scores = logits - torch.where(counted, taken - math.log1p(-self.config.weight), taken)[:, None]
        column = item if columns is None else columns[item]
        kept = (column >= 0) & (column < width)
        cell = user[kept] * width + column[kept]
        mass = logits.new_zeros(users * width).index_add_(0, cell, share[kept])
        # An item that follows several of the last ones is mixed as often, each time to the same value.
        flat = scores.view(-1)
        there = flat[cell]
        mixed = torch.logaddexp(there, torch.log(self.config.weight * mass[cell]))
        flat[cell] = torch.where(torch.isneginf(there), there, mixed)
        return scores

    def _successors(self, recent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the users' successors as triples: user int64[m], vocabulary row int64[m], share float32[m]."""
        rows = recent[:, : self.config.reach].long()
        begin, size = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        age = torch.arange(rows.shape[1], device=rows.device, dtype=torch.float32)
        weight = torch.where((rows != PADDING_ITEM) & (size > 0), self.config.decay**age, 0.0)
        weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        size = torch.where(weight > 0.0, size, 0).reshape(-1)
        place = torch.repeat_interleave(torch.arange(len(size), device=rows.device), size)
        within = torch.arange(len(place), device=rows.device) - (size.cumsum(0) - size)[place]
        entry = begin.reshape(-1)[place] + within
        return place // rows.shape[1], self.items[entry].long(), self.shares[entry] * weight.reshape(-1)[place]
