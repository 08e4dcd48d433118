"""What is held about a user, and its end."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.events.identity import UserDirectory, user_keys
from nextact_server.pipeline import Pipeline
from nextact_server.sequence.journal import Journal, when_durable
from nextact_server.sequence.outputs import SeenItems
from nextact_server.sequence.residency import Residency
from nextact_server.storage.seam import CommitGroup, Erasure, HistoryPage, Store


@dataclass(frozen=True, slots=True)
class Person:
    """What is held about a user; `last_time_us` is only meaningful with events."""

    events_seen: int
    last_time_us: int
    suppressed: bool
    page: HistoryPage


class People:
    """Reads and erases users. An erasure takes its turn like an event: earlier ones go, later ones start afresh."""

    def __init__(
        self,
        pipeline: Pipeline,
        directory: UserDirectory,
        residency: Residency,
        seen: SeenItems,
        store: Store,
        journal: Journal,
    ) -> None:
        self._pipeline = pipeline
        self._directory = directory
        self._residency = residency
        self._seen = seen
        self._store = store
        self._journal = journal

    def get(self, user_id: str, anonymous_id: str, before: int | None, limit: int) -> Person | None:
        """A page of what is held about a user, newest event first; None for one never seen and not suppressed."""
        key = key_of(user_id, anonymous_id)
        suppressed = bool(self._store.suppressed(key)[0])
        user = int(self._directory.find(key)[0])
        columns = self._store.users(np.array([max(user, 0)]))
        if user < 0 or not columns.has_history[0]:
            if not suppressed:
                return None
            return Person(0, 0, suppressed, self._store.history(-1, None, 0))
        page = self._store.history(user, before, limit)
        return Person(int(columns.events_seen[0]), int(columns.last_time_us[0]), suppressed, page)

    async def delete(self, user_id: str, anonymous_id: str, *, suppress: bool) -> bool:
        """Erases a user everywhere; returns whether anything was held. Raises QueueFull, StoreUnavailable."""
        key = key_of(user_id, anonymous_id)
        submission = self._pipeline.run(lambda: self._erase(key, suppress), user_key=key[0])
        return bool(await asyncio.wrap_future(await asyncio.wrap_future(submission.future)))

    def _erase(self, key: NDArray[np.uint64], suppress: bool) -> "Future[bool]":
        user = self._directory.find(key) if not suppress else self._directory.resolve(key)
        if user[0] < 0:
            return when_durable(self._journal.last, False)
        held = bool(self._store.users(user).has_history[0])
        erasure = Erasure(user=int(user[0]), user_key=(int(key[0, 0]), int(key[0, 1])), suppress=suppress)
        self._residency.reserve(user, self._journal.durable)
        durable = self._journal.commit(CommitGroup(sequence=self._journal.sequence + 1, erased=(erasure,)))
        self._residency.restart(user, self._journal.sequence, self._journal.durable)
        self._seen.forget(user.tolist(), durable)
        return when_durable(durable, held)


def key_of(user_id: str, anonymous_id: str) -> NDArray[np.uint64]:
    """The user's key, uint64[1, 2]; user_id wins where both are given."""
    return user_keys(pa.array([user_id]), pa.array([anonymous_id]))[0]
