"""Events of many users, regrouped so that a cell advances all of them step by step without a padded copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """The order of a scan: all first events, then all second ones, and so on, the user with the most events first.

    `users` int64[A] are those who have events, in that order, of the U that were asked about. `source` int64[n] says
    where each packed row stood, `target` int64[n] where each given row went. Step t holds `sizes[t]` rows, those of
    the first `sizes[t]` users, from row `offsets[t]` on. `ends` int64[A] is each user's last packed row.
    """

    users: Tensor
    source: Tensor
    target: Tensor
    ends: Tensor
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]

    def previous(self, back: int) -> Tensor:
        """Return int64[n]: the packed row of the same user `back` events earlier, -1 where there is none."""
        sizes = torch.tensor(self.sizes)
        offsets = torch.tensor(self.offsets)
        step = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        rank = torch.arange(len(step)) - offsets[step]
        earlier = step - back
        return torch.where(earlier >= 0, offsets[earlier.clamp(min=0)] + rank, -1).to(self.source.device)


def pack(lengths: Tensor, device: torch.device) -> Packing:
    """Return the packing of users with `lengths` int64[U] events each, given user after user; tensors on `device`."""
    lengths = lengths.cpu()
    order = torch.argsort(lengths, descending=True, stable=True)
    users = order[: int((lengths > 0).sum())]
    sizes = torch.bincount(lengths, minlength=int(lengths.max()) + 1).flip(0).cumsum(0).flip(0)[1:]
    offsets = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0])
    user = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths)
    step = torch.arange(user.shape[0]) - (lengths.cumsum(0) - lengths)[user]
    target = offsets[step] + rank[user]
    source = torch.empty_like(target)
    source[target] = torch.arange(target.shape[0])
    ends = offsets[lengths[users] - 1] + torch.arange(users.shape[0])
    return Packing(
        users=users.to(device),
        source=source.to(device),
        target=target.to(device),
        ends=ends.to(device),
        sizes=tuple(sizes.tolist()),
        offsets=tuple(offsets.tolist()),
    )
