"""The last items of users, as their states name them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextact_server.sequence.config import FIRST_ITEM


@dataclass(frozen=True, slots=True)
class RecentItems:
    """The items of a step's users: those that the states named, and those of the step's events.

    `items` float32[L * reach + k] holds, lane after lane, the `reach` items before the step, oldest first, then those
    of the lane's events that are in the vocabulary. `known` int64[a + 1] counts the latter up to each event in the
    order of the lanes, `ends` int64[L + 1] says where each lane's events begin in it.
    """

    items: Tensor
    known: Tensor
    ends: Tensor
    reach: int

    def at(self, lanes: Tensor, counts: Tensor) -> Tensor:
        """Return float32[m, reach], the last first: the items of lanes after their first `counts` events."""
        begin = self.ends[lanes]
        newest = (lanes + 1) * self.reach + self.known[begin + counts] - 1
        return self.items[newest[:, None] - torch.arange(self.reach, device=newest.device)]


def remember(before: Tensor, vocab: Tensor, ends: Tensor) -> RecentItems:
    """Join what states named with the items of a step.

    `before` float32[L, reach], the last first; `vocab` int64[a], the vocabulary row of each applied event's item in the
    order of the lanes, below FIRST_ITEM where it has none: such an event leaves no trace. `ends` int64[L + 1].
    """
    lanes, reach = before.shape
    is_known = vocab >= FIRST_ITEM
    known = torch.zeros(len(vocab) + 1, dtype=torch.int64, device=vocab.device)
    torch.cumsum(is_known, 0, out=known[1:])
    items = before.new_empty(lanes * reach + int(known[-1]))
    before_each = torch.arange(lanes, device=vocab.device)[:, None] * reach + known[ends[:-1]][:, None]
    items[before_each + torch.arange(reach, device=vocab.device)] = before.flip(1)
    lane = torch.repeat_interleave(torch.arange(lanes, device=vocab.device), ends.diff())[is_known]
    items[(lane + 1) * reach + torch.arange(len(lane), device=vocab.device)] = vocab[is_known].to(before.dtype)
    return RecentItems(items, known, ends, reach)
