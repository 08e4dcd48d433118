"""What counting alone foretells of the next item: popularity and what followed what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import sparse

from nextact_server.training.history import last_items
from nextact_server.training.metrics import Float64
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import ABSENT, Bool, Int64, Sequences

POPULARITY_WEIGHT: Final = 1e-6
"""Breaks ties between equal counts by popularity and is too small to do more."""


def popularity(sequences: Sequences, counted: Bool, items: int) -> Float64:
    """Return float64[C]: each item's part of the events that `counted` bool[n] marks."""
    share: Float64 = np.bincount(sequences.item[counted], minlength=items) / max(1, int(counted.sum()))
    return share


def followed(
    sequences: Sequences, counted: Bool, items: int, *, reach: int = 1, decay: float = 1.0, backward: float = 0.0
) -> sparse.csr_array:
    """Count, float64[C, C], how often one item came after another of the same user, an item after itself included.

    Only events that `counted` bool[n] marks take part, as if the others were not there. Pairs one step apart count 1,
    each step further up to `reach` counts `decay` times as much, and in the opposite order `backward` times as much.
    """
    rows = np.flatnonzero(counted)
    user, item = sequences.user[rows], sequences.item[rows]
    total = sparse.csr_array((items, items), dtype=np.float64)
    for step in range(1, min(reach, len(rows) - 1) + 1):
        joined = user[step:] == user[:-step]
        before, after = item[:-step][joined], item[step:][joined]
        pairs = sparse.csr_array((np.full(len(before), decay ** (step - 1)), (before, after)), shape=(items, items))
        total = total + pairs + backward * pairs.T if backward else total + pairs
    return sparse.csr_array(total)


@dataclass(frozen=True, slots=True)
class PopularityScorer:
    """The same for everyone: each item's `share` float64[C] of the training events."""

    share: Float64

    @property
    def items(self) -> int:
        """See Scorer."""
        return len(self.share)

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:  # noqa: ARG002  # of Scorer
        """See Scorer."""
        return Foretold(offered(np.tile(self.share, (len(rows), 1)), removed), None)


@dataclass(frozen=True, slots=True)
class FollowedScorer:
    """What followed the user's last `last` next-item events in training, each earlier one counting `decay` times less.

    An item's score is its count in `pairs` float64[C, C], plus 1e-6 times its `share` float64[C] of all events. With
    the pairs of direct successors and `last` 1 it is the first-order Markov chain.
    """

    pairs: sparse.csr_array
    share: Float64
    last: int = 1
    decay: float = 1.0

    @property
    def items(self) -> int:
        """See Scorer."""
        return len(self.share)

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        """See Scorer."""
        item = last_items(sequences, rows, self.last, sequences.item_target)
        row, age = np.nonzero(item != ABSENT)
        asked = sparse.csr_array((self.decay**age, (row, item[row, age])), shape=(len(rows), self.items))
        scores = (asked @ self.pairs).toarray()
        scores += POPULARITY_WEIGHT * self.share
        return Foretold(offered(scores, removed), None)


def offered(scores: Float64, removed: Bool | None) -> Float64:
    """Put -inf into `scores` float64[m, C] where `removed` bool[m, C], and return them."""
    if removed is not None:
        np.copyto(scores, -np.inf, where=removed)
    return scores
