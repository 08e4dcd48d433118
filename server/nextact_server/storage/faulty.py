"""A store for tests that fails and waits on demand, in front of a real one."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.seam import (
    CommitGroup,
    HistoryPage,
    ItemRecord,
    ReplayRows,
    StateColumns,
    Store,
    StoreClosedError,
    StoreError,
    StoreFailedError,
    UserColumns,
)


class FaultyStore:
    """Passes everything to `inner`, but lets a test decide when a group becomes durable and which commit fails.

    What is held or failed has not reached the inner store: reads show durable groups only, as with a store on disk.
    """

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._changed = threading.Condition()
        self._held: deque[tuple[int, CommitGroup, Future[None]]] = deque()
        self._holding = False
        self._commits = 0
        self._to_fail: dict[int, BaseException] = {}
        self._failure: BaseException | None = None
        self._reopen_errors: deque[BaseException] = deque()
        self._closed = False

    @property
    def durability(self) -> str:
        """That of the inner store."""
        return self._inner.durability

    @property
    def commits(self) -> int:
        """How many commits were asked for so far."""
        with self._changed:
            return self._commits

    @property
    def held(self) -> int:
        """How many commits wait to be released."""
        with self._changed:
            return len(self._held)

    def fail_commit(self, n: int = 1, error: BaseException | None = None) -> None:
        """Lets the n-th commit from now on fail (1: the next one), and so every one behind it until `reopen`."""
        with self._changed:
            self._to_fail[self._commits + n] = error or StoreError("commit failed on demand")

    def fail_reopen(self, error: BaseException | None = None) -> None:
        """Lets the next `reopen` fail, once per call."""
        with self._changed:
            self._reopen_errors.append(error or StoreError("reopen failed on demand"))

    def hold(self) -> None:
        """From now on commits wait until they are released."""
        with self._changed:
            self._holding = True

    def release(self, count: int | None = None) -> None:
        """Completes the first `count` held commits, in order (None: all, and holds no further ones).

        When one of them fails, all that are held behind it fail with it.
        """
        with self._changed:
            if count is None:
                self._holding = False
                count = len(self._held)
            outcomes = [self._release_one() for _ in range(min(count, len(self._held)))]
            while self._failure is not None and self._held:
                outcomes.append(self._release_one())
        for outcome, done in outcomes:
            _pass_on(outcome, done)

    def await_held(self, count: int, timeout: float) -> bool:
        """Waits until at least `count` commits are held; False when that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._held) >= count, timeout)

    def commit(self, group: CommitGroup) -> Future[None]:
        """See `Writes.commit`."""
        done: Future[None] = Future()
        with self._changed:
            self._commits += 1
            if self._holding and not self._closed and self._failure is None:
                self._held.append((self._commits, group, done))
                self._changed.notify_all()
                return done
            outcome = self._apply(self._commits, group)
        _pass_on(outcome, done)
        return done

    def save_states(
        self,
        users: NDArray[np.int64],
        events_seen: NDArray[np.int64],
        last_time_us: NDArray[np.int64],
        states: Mapping[str, NDArray[np.float32]],
        *,
        model: str = "",
    ) -> NDArray[np.bool_]:
        """See `Writes.save_states`."""
        return self._inner.save_states(users, events_seen, last_time_us, states, model=model)

    def reopen(self) -> None:
        """See `Writes.reopen`. What is still held has not become durable, and fails."""
        with self._changed:
            if self._reopen_errors:
                raise self._reopen_errors.popleft()
            lost, self._held = self._held, deque()
            self._inner.reopen()
            self._failure = None
        for _, _, done in lost:
            done.set_exception(StoreFailedError("the store was reopened before the commit was written"))

    def close(self) -> None:
        """See `Writes.close`. What is held is completed first."""
        self.release()
        with self._changed:
            self._closed = True
            self._inner.close()

    def message_status(self, message_keys: NDArray[np.uint64]) -> NDArray[np.int8]:
        """See `Reads.message_status`."""
        return self._inner.message_status(message_keys)

    def suppressed(self, user_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """See `Reads.suppressed`."""
        return self._inner.suppressed(user_keys)

    def users(self, users: NDArray[np.int64]) -> UserColumns:
        """See `Reads.users`."""
        return self._inner.users(users)

    def load_states(self, users: NDArray[np.int64], *, model: str = "") -> StateColumns:
        """See `Reads.load_states`."""
        return self._inner.load_states(users, model=model)

    def replay(self, user: int, after_events_seen: int) -> ReplayRows:
        """See `Reads.replay`."""
        return self._inner.replay(user, after_events_seen)

    def history(self, user: int, before: int | None, limit: int) -> HistoryPage:
        """See `Reads.history`."""
        return self._inner.history(user, before, limit)

    def seen_items(self, user: int, after: int = -1) -> tuple[NDArray[np.uint64], int]:
        """See `Reads.seen_items`."""
        return self._inner.seen_items(user, after)

    def content_vector(self, content_hash: bytes) -> NDArray[np.float32] | None:
        """See `Reads.content_vector`."""
        return self._inner.content_vector(content_hash)

    def content_vectors(self, hashes: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See `Reads.content_vectors`."""
        return self._inner.content_vectors(hashes)

    def item(self, item_id: str) -> ItemRecord | None:
        """See `Reads.item`."""
        return self._inner.item(item_id)

    def items(self, after_item_id: str, limit: int) -> tuple[ItemRecord, ...]:
        """See `Reads.items`."""
        return self._inner.items(after_item_id, limit)

    def all_items(self) -> Iterator[ItemRecord]:
        """See `Reads.all_items`."""
        return self._inner.all_items()

    def _release_one(self) -> tuple[Future[None], Future[None]]:
        number, group, done = self._held.popleft()
        return self._apply(number, group), done

    def _apply(self, number: int, group: CommitGroup) -> Future[None]:
        """Lets a commit through, or fails it."""
        error = self._to_fail.pop(number, None)
        if self._closed:
            return _failed(StoreClosedError("the store is closed"))
        if self._failure is not None:
            return _failed(StoreFailedError(f"an earlier commit failed ({self._failure}); reopen the store first"))
        if error is None:
            return self._inner.commit(group)
        self._failure = error
        return _failed(error)


def _failed(error: BaseException) -> Future[None]:
    outcome: Future[None] = Future()
    outcome.set_exception(error)
    return outcome


def _pass_on(outcome: Future[None], done: Future[None]) -> None:
    """Ends `done` as `outcome` ends. Called without a lock: whoever waits may commit again from there."""

    def end(outcome: Future[None]) -> None:
        error = outcome.exception()
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    outcome.add_done_callback(end)
