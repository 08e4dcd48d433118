"""What counting alone foretells: popularity, the first-order Markov chain, and the last action repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nextact_server.training.sequences import ABSENT, Int64, Sequences

_POPULARITY_WEIGHT: Final = 1e-6
"""Breaks ties between equal counts by popularity and is too small to do more."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over training events. `share` float64[C] is each item's part of all next-item events.

    `pairs` maps an item to the items that came next and how often.
    """

    share: npt.NDArray[np.float64]
    pairs: dict[int, tuple[Int64, Int64]]

    def popularity(self) -> npt.NDArray[np.float64]:
        """Return the score of every item, the same for everyone, float64[C]."""
        return self.share

    def markov(self, last_item: int) -> npt.NDArray[np.float64]:
        """Return float64[C]: how often each item followed `last_item`, plus 1e-6 times its popularity."""
        scores = _POPULARITY_WEIGHT * self.share
        if last_item in self.pairs:
            items, counts = self.pairs[last_item]
            scores[items] += counts
        return scores


def count(train: Sequences, items: int) -> Counts:
    """Count next items and pairs of consecutive next items over all training events."""
    rows = np.flatnonzero(train.item_target)
    user = np.repeat(np.arange(len(train.users)), train.lengths)[rows]
    item = train.item[rows]
    share = np.bincount(item, minlength=items).astype(np.float64)
    share /= max(1.0, share.sum())
    joined = user[1:] == user[:-1]
    pairs, counts = np.unique(np.stack((item[:-1][joined], item[1:][joined])), axis=1, return_counts=True)
    heads, starts = np.unique(pairs[0], return_index=True)
    parts = zip(np.split(pairs[1], starts[1:]), np.split(counts, starts[1:]), strict=True)
    return Counts(share, {int(head): part for head, part in zip(heads, parts, strict=True)})


def last_items(sequences: Sequences, first: int, last: int) -> Int64:
    """Return, for each of one user's rows, the item of the last next-item event before it, or ABSENT."""
    rows = np.arange(first, last)
    seen = np.where(sequences.item_target[first:last], rows, ABSENT)
    previous = np.concatenate(([ABSENT], np.maximum.accumulate(seen)[:-1])) if len(rows) else seen
    return np.where(previous == ABSENT, ABSENT, sequences.item[previous])


def last_actions(sequences: Sequences, first: int, last: int) -> Int64:
    """Return, for each of one user's rows, the action before it; the user's first row has ABSENT."""
    return np.concatenate(([ABSENT], sequences.action[first : last - 1]))
