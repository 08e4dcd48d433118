"""One way to judge anything that foretells: event by event, against what came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from nextact_server.sequence.config import FIRST_ACTION
from nextact_server.training.history import owners, seen_before
from nextact_server.training.metrics import target_ranks
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import Bool, Int64

BLOCK_CELLS: Final = 2**23
"""Scores that are looked at together: 32 MiB of float32."""

_BLOCK_ROWS: Final = 2**14


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was foretold of the judged events, and what came.

    Of next-item events, if items were ranked: `item_row` int64[m] and `item_user` int64[m] say which they are, `rank`
    int64[m] is their item's, 0 for the best, UNRANKED for one that was removed. Of events whose action is known, if
    actions were foretold: `action_row` int64[k], `action_user` int64[k], the log probabilities `action_log` float[k, A]
    of the known actions, and `action` int64[k], which of them came.
    """

    item_row: Int64
    item_user: Int64
    rank: Int64
    action_row: Int64
    action_user: Int64
    action_log: npt.NDArray[np.float64]
    action: Int64

    @property
    def action_hit(self) -> Bool:
        """Whether the likeliest action came, bool[k]."""
        hit: Bool = self.action_log.argmax(axis=1) == self.action if len(self.action) else np.zeros(0, dtype=np.bool_)
        return hit


def judge(scorer: Scorer, judged: Judged, *, exclude_seen: bool, cells: int = BLOCK_CELLS) -> Judgement:
    """Let `scorer` foretell the judged events, and rank what came over the whole catalogue.

    With `exclude_seen` the items of all the user's earlier events are removed; a target among them is unranked, as it
    would be when served. Blocks of `cells` scores at most are held at a time, which changes nothing but the memory.
    """
    sequences = judged.sequences
    item_row, ranks, action_row, logs = [], [], [], []
    for rows in _blocks(judged, scorer.items, cells):
        removed = seen_before(sequences, rows, scorer.items) if exclude_seen and scorer.items else None
        if judged.offered is not None and scorer.items:
            removed = ~judged.offered | (removed if removed is not None else np.zeros((len(rows), 1), dtype=np.bool_))
        foretold = scorer(sequences, rows, removed)
        if foretold.scores is not None:
            wanted = sequences.item_target[rows]
            scores = foretold.scores if wanted.all() else foretold.scores[wanted]
            item_row.append(rows[wanted])
            ranks.append(target_ranks(scores, sequences.item[rows[wanted]]))
        if foretold.actions is not None:
            known = sequences.action[rows] >= FIRST_ACTION
            action_row.append(rows[known])
            logs.append(foretold.actions[known].astype(np.float64))
    nothing = np.zeros(0, dtype=np.int64)
    items, acted = np.concatenate([nothing, *item_row]), np.concatenate([nothing, *action_row])
    return Judgement(
        item_row=items,
        item_user=owners(sequences, items),
        rank=np.concatenate([nothing, *ranks]),
        action_row=acted,
        action_user=owners(sequences, acted),
        action_log=np.concatenate(logs) if logs else np.zeros((0, 0)),
        action=sequences.action[acted] - FIRST_ACTION,
    )


def _blocks(judged: Judged, items: int, cells: int) -> Iterator[Int64]:
    rows = judged.rows
    size = max(1, min(_BLOCK_ROWS, cells // max(1, items)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
