"""Windows of users' sequences, and batches of windows of like length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from nextact_server.training.sequences import Int64, Sequences

_BUCKET: Final = 8
"""Windows whose lengths differ by less than this come into a batch as chance has it."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Runs of one user's rows each: rows `start[i]` up to `stop[i]` of user `user[i]`, all int64[w]."""

    user: Int64
    start: Int64
    stop: Int64

    def take(self, which: Int64) -> Windows:
        """Return some of the windows."""
        return Windows(self.user[which], self.start[which], self.stop[which])


def cut(sequences: Sequences, size: int, rng: np.random.Generator) -> Windows:
    """Cut every user's rows into windows of `size`; where the first cut falls is drawn, so that epochs differ."""
    low, high = sequences.starts[:-1], sequences.starts[1:]
    first = low + rng.integers(1, size + 1, len(low))
    inner = np.maximum(-(-(high - first) // size), 0)
    pieces = inner + 1
    user = np.repeat(np.arange(len(low)), pieces)
    number = np.arange(len(user)) - (np.cumsum(pieces) - pieces)[user]
    start = np.where(number == 0, low[user], first[user] + (number - 1) * size)
    stop = np.minimum(first[user] + number * size, high[user])
    kept = stop > start
    return Windows(user[kept], start[kept], stop[kept])


def batches(windows: Windows, events: int, rng: np.random.Generator) -> Iterator[Windows]:
    """Yield batches in drawn order; longest window times number of windows is at most `events`, or it is one window."""
    length = windows.stop - windows.start
    order = np.argsort(length + rng.uniform(0.0, _BUCKET, len(length)), kind="stable")
    running = np.maximum.accumulate(length[order])
    edges = [0]
    for at, longest in enumerate(running.tolist()):
        if at > edges[-1] and longest * (at - edges[-1] + 1) > events:
            edges.append(at)
    edges.append(len(order))
    for number in rng.permutation(len(edges) - 1).tolist():
        yield windows.take(order[edges[number] : edges[number + 1]])
