"""Sequences by hand, and scorers that need no model."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from nextact_server.sequence.config import UNKNOWN_ACTION
from nextact_server.training.content import Vectors
from nextact_server.training.scoring import Foretold
from nextact_server.training.sequences import ABSENT, Bool, Catalogue, Int64, Sequences
from nextact_server.training.task import Task

DIM = 4


def sequences_of(
    histories: Sequence[Sequence[int]],
    *,
    actions: Sequence[Sequence[int]] | None = None,
    gaps: Sequence[Sequence[int]] | None = None,
    targets: Sequence[Sequence[bool]] | None = None,
) -> Sequences:
    """A user per history of catalogue rows; `actions` as the model numbers them, `gaps` in microseconds."""
    lengths = [len(history) for history in histories]
    item = np.array([item for history in histories for item in history], dtype=np.int64)
    events = len(item)

    def flat(values: Sequence[Sequence[int]] | None, otherwise: int) -> Int64:
        if values is None:
            return np.full(events, otherwise, dtype=np.int64)
        return np.array([value for own in values for value in own], dtype=np.int64)

    return Sequences(
        users=tuple(f"u{number}" for number in range(len(histories))),
        starts=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64),
        item=item,
        action=flat(actions, UNKNOWN_ACTION),
        time=np.zeros((events, 6), np.float32),
        text=np.full(events, ABSENT, dtype=np.int64),
        texts=np.zeros((0, DIM), np.float32),
        item_target=(item != ABSENT) if targets is None else flat(targets, 1).astype(np.bool_),
        time_us=np.zeros(events, dtype=np.int64),
        gap_us=flat(gaps, -1),
    )


def catalogue_of(items: int) -> Catalogue:
    content: Vectors = np.zeros((items, DIM), np.float32)
    return Catalogue(tuple(f"i{row}" for row in range(items)), content, np.zeros(items, dtype=np.bool_))


def task_of(items: int, *actions: str, exclude_seen: bool = False) -> Task:
    return Task(catalogue_of(items), actions, exclude_seen, uses_time=False, uses_actions=bool(actions))


def histories(items: int, *, longest: int = 12, absent: bool = True) -> st.SearchStrategy[list[list[int]]]:
    """Up to five users of at least one event."""
    one = st.lists(st.integers(ABSENT if absent else 0, items - 1), min_size=1, max_size=longest)
    return st.lists(one, min_size=1, max_size=5)


class DrawnScorer:
    """Scores and log probabilities that depend on the row alone, coarse enough to tie."""

    def __init__(self, items: int, actions: int = 0, seed: int = 0) -> None:
        self.items = items
        self._actions = actions
        self._seed = seed

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        scores = np.stack([self._rng(row).integers(0, 4, self.items).astype(np.float32) for row in rows.tolist()])
        if removed is not None:
            scores[removed] = -np.inf
        if not self._actions:
            return Foretold(scores, None)
        chances = np.stack([self._rng(row).dirichlet(np.ones(self._actions)) for row in rows.tolist()])
        return Foretold(scores, np.log(chances))

    def _rng(self, row: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, row))
