"""Decayed co-occurrence: what came within a few steps of the user's last few items, the strongest way to only count."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from scipy import sparse

from nextact_server.training.baselines import FollowedScorer, followed, popularity
from nextact_server.training.sequences import Bool, Sequences
from nextact_server.training.tuning import Point, best_point, last_left_out, ndcg_at_10

BACKWARD: Final = 0.5
"""What a pair counts in the opposite order."""

START: Final[Point] = {"reach": 5, "decay": 0.8, "evened": 1.0, "last": 5, "query_decay": 0.6}
GRID: Final = {
    "evened": (0.0, 0.5, 1.0),
    "reach": (2, 3, 5, 8, 12, 20),
    "decay": (1.0, 0.9, 0.8, 0.6),
    "query_decay": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "last": (3, 5, 10),
}
"""`reach` and `decay` of the pairs; how far frequent items are `evened`; and the `last` items that are asked."""


def cooccurrence(train: Sequences, items: int, *, exclude_seen: bool) -> tuple[FollowedScorer, Point]:
    """Count pairs within a few steps over all training events, and return the parameters they were counted with.

    These are chosen by NDCG@10 on each training user's last next-item event, counted without it.
    """
    counted, judged = last_left_out(train)
    chosen = START
    if judged is not None:
        pairs = cache(lambda reach, decay: _pairs(train, counted, items, reach, decay))
        share = popularity(train, counted, items)

        def value(point: Point) -> float:
            even = evened(pairs(point["reach"], point["decay"]), point["evened"])
            scorer = FollowedScorer(even, share, int(point["last"]), point["query_decay"])
            return ndcg_at_10(scorer, judged, exclude_seen=exclude_seen)

        chosen = best_point(GRID, START, value)
    everything = _pairs(train, train.item_target, items, chosen["reach"], chosen["decay"])
    share = popularity(train, train.item_target, items)
    even = evened(everything, chosen["evened"])
    return FollowedScorer(even, share, int(chosen["last"]), chosen["query_decay"]), dict(chosen)


def evened(pairs: sparse.csr_array, power: float) -> sparse.csr_array:
    """Divide each row of `pairs` float64[C, C] by its sum to the `power`.

    At 0 an item that is met often says as much more as it is met; at 1 each of the user's last items says the same.
    """
    if power == 0.0:
        return pairs
    total = np.asarray(pairs.sum(axis=1)).reshape(-1)
    return sparse.csr_array(sparse.diags_array(np.where(total > 0, total, 1.0) ** -power) @ pairs)


def _pairs(train: Sequences, counted: Bool, items: int, reach: float, decay: float) -> sparse.csr_array:
    return followed(train, counted, items, reach=int(reach), decay=decay, backward=BACKWARD)
