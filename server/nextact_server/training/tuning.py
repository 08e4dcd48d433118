"""Choosing the parameters of a counting baseline on what it is counted from, never on what is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from nextact_server.training.judging import judge
from nextact_server.training.metrics import item_metrics
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import Bool, Sequences

Point: TypeAlias = dict[str, float]

TUNING_USERS: Final = 10_000
"""More users than these are sampled: the choice gets no better and the time would grow."""

_ROUNDS: Final = 3


def last_left_out(train: Sequences, *, most: int = TUNING_USERS, seed: int = 0) -> tuple[Bool, Judged | None]:
    """Leave out each training user's last next-item event, to choose parameters on.

    Returns the events left to count, bool[n], and the events left out, those of at most `most` users; None where no
    user has two next-item events.
    """
    rows = np.flatnonzero(train.item_target)
    user = train.user[rows]
    is_last = np.append(user[1:] != user[:-1], True) if len(rows) else np.zeros(0, dtype=np.bool_)
    several = np.bincount(user, minlength=len(train.users)) > 1
    chosen, owner = rows[is_last & several[user]], user[is_last & several[user]]
    counted = train.item_target.copy()
    counted[chosen] = False
    if len(chosen) > most:
        sample = np.sort(np.random.default_rng(seed).choice(len(chosen), most, replace=False))
        chosen, owner = chosen[sample], owner[sample]
    first = train.starts[1:].copy()
    first[owner] = chosen
    return counted, Judged(train, first) if len(chosen) else None


def ndcg_at_10(scorer: Scorer, judged: Judged, *, exclude_seen: bool) -> float:
    """Return the mean NDCG@10 of a scorer."""
    return float(item_metrics(judge(scorer, judged, exclude_seen=exclude_seen).rank)["NDCG@10"].mean())


def best_point(grid: Mapping[str, Sequence[float]], start: Point, value: Callable[[Point], float]) -> Point:
    """Return the point of the grid where `value` is highest, one coordinate tried after another until none changes.

    Of equal points the earlier tried stays.
    """
    best, seen = dict(start), {tuple(start.values()): value(start)}
    for _ in range(_ROUNDS):
        before = best
        for name, choices in grid.items():
            for choice in choices:
                point = best | {name: choice}
                key = tuple(point.values())
                if key not in seen:
                    seen[key] = value(point)
                if seen[key] > seen[tuple(best.values())]:
                    best = point
        if best == before:
            break
    return best
