"""Judged events told apart: by how much was known of the user, and by how long ago the last event was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from nextact_server.sequence.card import Slice
from nextact_server.training.bootstrap import Resampling, estimate
from nextact_server.training.metrics import Float64, Int64
from nextact_server.training.outcomes import Events
from nextact_server.training.sequences import Bool

HISTORY: Final = "events before"
GAP: Final = "time since the last event"

_LENGTHS: Final = ((0, "none"), (5, "1-5"), (20, "6-20"), (50, "21-50"), (200, "51-200"), (None, "over 200"))
"""The most events of each part, and its name."""

_SECOND: Final = 1_000_000
_GAPS: Final = (
    (0, "no time"),
    (60 * _SECOND, "under a minute"),
    (3_600 * _SECOND, "under an hour"),
    (86_400 * _SECOND, "under a day"),
    (7 * 86_400 * _SECOND, "under a week"),
    (None, "a week or longer"),
)
"""The end of each part in microseconds, itself not in it, and its name; an unknown gap is -1."""


def slices(
    events: Events, figures: Callable[[Resampling, Int64], Mapping[str, Mapping[str, Float64]]]
) -> dict[str, dict[str, Slice]]:
    """Judge each part of the events on its own; parts without events are left out, as is time where none is known.

    `figures` returns, for the events at places int64[k], each candidate's figures as float64[1 + samples].
    """
    ways = {HISTORY: by_history(events.before)}
    if (events.gap_us >= 0).any():
        ways[GAP] = by_gap(events.gap_us)
    return {
        way: {
            name: _slice(events.user[chosen], figures(Resampling(events.user[chosen]), chosen))
            for name, chosen in _parts(labels, names)
        }
        for way, (labels, names) in ways.items()
    }


def by_history(before: Int64) -> tuple[Int64, tuple[str, ...]]:
    """Return the part of each event, int64[n], by the number of events `before` it, and the names of the parts."""
    ends = np.array([most for most, _ in _LENGTHS if most is not None])
    return np.searchsorted(ends, before, side="left"), tuple(name for _, name in _LENGTHS)


def by_gap(gap_us: Int64) -> tuple[Int64, tuple[str, ...]]:
    """Return the part of each event, int64[n], by the microseconds since the last one, and the names of the parts."""
    ends = np.array([end for end, _ in _GAPS if end is not None])
    return np.searchsorted(ends, gap_us, side="right"), tuple(name for _, name in _GAPS)


def _parts(labels: Int64, names: tuple[str, ...]) -> Iterator[tuple[str, Int64]]:
    for number, name in enumerate(names):
        is_in: Bool = labels == number
        if is_in.any():
            yield name, np.flatnonzero(is_in)


def _slice(user: Int64, figures: Mapping[str, Mapping[str, Float64]]) -> Slice:
    return Slice(
        events=len(user),
        users=len(np.unique(user)),
        figures={who: {metric: estimate(values) for metric, values in own.items()} for who, own in figures.items()},
    )
