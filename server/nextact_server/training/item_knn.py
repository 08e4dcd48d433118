"""Item-based nearest neighbours: items that the same users met, whatever the order (Deshpande and Karypis 2004)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from scipy import sparse

from nextact_server.training.baselines import POPULARITY_WEIGHT, offered, popularity
from nextact_server.training.history import seen_before
from nextact_server.training.metrics import Float64
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import Bool, Int64, Sequences
from nextact_server.training.tuning import Point, best_point, last_left_out, ndcg_at_10

START: Final[Point] = {"neighbours": 100, "shrinkage": 10}
_MOST: Final = 400
GRID: Final = {"shrinkage": (0, 10, 30, 100, 300), "neighbours": (5, 10, 20, 50, 100, 200, _MOST)}

_LATEST: Final = 2_000
"""Of a user with a longer history only so many of the latest events are counted: pairs grow with its square."""


@dataclass(frozen=True, slots=True)
class NeighbourScorer:
    """An item's score is the sum of its similarities to all items that the user met; `near` float64[C, C] holds them.

    Ties go by 1e-6 times the `share` float64[C] of all training events.
    """

    near: sparse.csr_array
    share: Float64

    @property
    def items(self) -> int:
        """See Scorer."""
        return len(self.share)

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        """See Scorer."""
        met = seen_before(sequences, rows, self.items)
        scores = (sparse.csr_array(met, dtype=np.float64) @ self.near).toarray()
        scores += POPULARITY_WEIGHT * self.share
        return Foretold(offered(scores, removed), None)


def item_knn(train: Sequences, items: int, *, exclude_seen: bool) -> tuple[NeighbourScorer, Point]:
    """Count which items the same users met, and return the parameters the neighbours were found with.

    These are chosen by NDCG@10 on each training user's last next-item event, counted without it.
    """
    counted, judged = last_left_out(train)
    chosen = START
    if judged is not None:
        together = met_together(train, counted, items)
        near = cache(lambda shrinkage: nearest(together, shrinkage))
        share = popularity(train, counted, items)

        def value(point: Point) -> float:
            scorer = NeighbourScorer(cut(near(point["shrinkage"]), int(point["neighbours"])), share)
            return ndcg_at_10(scorer, judged, exclude_seen=exclude_seen)

        chosen = best_point(GRID, START, value)
    together = met_together(train, train.item_target, items)
    kept = cut(nearest(together, chosen["shrinkage"]), int(chosen["neighbours"]))
    return NeighbourScorer(kept, popularity(train, train.item_target, items)), dict(chosen)


def met_together(train: Sequences, counted: Bool, items: int) -> sparse.csr_array:
    """Return float64[C, C]: how many users met both items in the events that `counted` bool[n] marks."""
    rows = np.flatnonzero(counted)
    user = train.user[rows]
    ends = np.cumsum(np.bincount(user, minlength=len(train.users)))
    kept = ends[user] - np.arange(len(rows)) <= _LATEST
    shape = (len(train.users), items)
    met = sparse.csr_array((np.ones(int(kept.sum())), (user[kept], train.item[rows[kept]])), shape=shape)
    met.data[:] = 1.0  # however often the user came back to the item
    return sparse.csr_array(met.T @ met)


def nearest(together: sparse.csr_array, shrinkage: float) -> sparse.csr_array:
    """Return the cosine between items' users, float64[C, C], of each item's nearest, the nearest first, itself too.

    together / (sqrt(n_i n_j) + shrinkage): what few users share is trusted less.
    """
    users = together.diagonal()
    head = np.repeat(np.arange(len(users)), np.diff(together.indptr))
    cosine = together.data / (np.sqrt(users[head] * users[together.indices]) + shrinkage)
    kept = []
    for begin, end in pairwise(together.indptr.tolist()):
        order = np.argsort(-cosine[begin:end], kind="stable")[:_MOST]
        kept.append(begin + order)
    chosen = np.concatenate(kept)
    size = np.concatenate(([0], np.cumsum([len(row) for row in kept])))
    return sparse.csr_array((cosine[chosen], together.indices[chosen], size), shape=together.shape)


def cut(near: sparse.csr_array, most: int) -> sparse.csr_array:
    """Keep the first `most` entries of each row."""
    size = np.diff(near.indptr)
    place = np.arange(near.nnz) - np.repeat(near.indptr[:-1], size)
    kept = place < most
    ends = np.concatenate(([0], np.cumsum(np.minimum(size, most))))
    return sparse.csr_array((near.data[kept], near.indices[kept], ends), shape=near.shape)
