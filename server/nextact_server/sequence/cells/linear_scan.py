"""The linear recurrence h[t] = a[t] * h[t-1] + b[t], element by element, over packed rows and with its gradient.

Two ways to the same result. The doubling scan (Hillis and Steele 1986) takes log2(T) passes over all rows and suits
a GPU; the loop takes T short steps and is faster on a CPU, where a step's rows stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextact_server.sequence.cells.packing import Packing


def linear_scan(a: Tensor, b: Tensor, start: Tensor, packing: Packing | None) -> Tensor:
    """Return h[n, d] of the recurrence; `a` and `b` are [n, d] in packed order, `start` [A, d] is each user's h before.

    Real or complex. Differentiable in all three. Without a packing every user has one row, in the order of `start`.
    """
    if packing is None or len(packing.sizes) == 1:
        return torch.addcmul(b, a, start)
    h: Tensor = _LinearScan.apply(a, b, start, packing)
    return h


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor, packing: Packing) -> Tensor:
        scan = _loop if a.device.type == "cpu" else _doubling
        h = scan(a, b, start, packing)
        ctx.save_for_backward(a, h, start)
        ctx.packing = packing
        return h

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        a, h, start = ctx.saved_tensors
        packing: Packing = ctx.packing
        scan = _loop_back if a.device.type == "cpu" else _doubling_back
        to_b = scan(a.conj().resolve_conj(), gradients[0].contiguous(), packing)
        first = packing.sizes[0]
        before = torch.empty_like(h)
        before[:first] = start
        before[first:] = h[packing.previous(1)[first:]]
        to_a = to_b * before.conj()
        return to_a, to_b, to_b[:first] * a[:first].conj(), None


def _loop(a: Tensor, b: Tensor, start: Tensor, packing: Packing) -> Tensor:
    h = torch.empty_like(b)
    last = start
    for offset, size in zip(packing.offsets, packing.sizes, strict=True):
        rows = slice(offset, offset + size)
        last = torch.addcmul(b[rows], a[rows], last[:size], out=h[rows])
    return h


def _loop_back(a: Tensor, gradient: Tensor, packing: Packing) -> Tensor:
    total = gradient.clone()
    steps = list(zip(packing.offsets, packing.sizes, strict=True))
    for (offset, _), (after, size) in zip(steps[-2::-1], steps[:0:-1], strict=True):
        total[offset : offset + size].addcmul_(a[after : after + size], total[after : after + size])
    return total


def _doubling(a: Tensor, b: Tensor, start: Tensor, packing: Packing) -> Tensor:
    first = packing.sizes[0]
    h = torch.cat((torch.addcmul(b[:first], a[:first], start), b[first:]))
    decay = a
    back = 1
    while back < len(packing.sizes):
        row = packing.previous(back)
        there = (row >= 0)[:, None]
        row = row.clamp(min=0)
        h = torch.where(there, torch.addcmul(h, decay, h[row]), h)
        decay = torch.where(there, decay * decay[row], decay)
        back *= 2
    return h


def _doubling_back(a: Tensor, gradient: Tensor, packing: Packing) -> Tensor:
    # The same scan from the end: a row's gradient takes its follower's, times the follower's decay.
    total = gradient
    row = packing.previous(1)
    decay = torch.zeros_like(a)
    decay[row[row >= 0]] = a[row >= 0]
    back = 1
    while back < len(packing.sizes):
        row = packing.previous(back)
        mine = row[row >= 0]
        follower = torch.arange(len(row), device=row.device)[row >= 0]
        total = total.index_copy(0, mine, torch.addcmul(total[mine], decay[mine], total[follower]))
        decay = torch.zeros_like(decay).index_copy(0, mine, decay[mine] * decay[follower])
        back *= 2
    return total
