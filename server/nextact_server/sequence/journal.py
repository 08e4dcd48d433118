"""What was given to the store and how far it is durable: the arena may run ahead of the disk, its answers may not."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.key_table import KeyTable
from nextact_server.inference.batch_future import answer, fail
from nextact_server.storage.seam import APPLIED_BIT, CommitGroup, EventRows, Store

logger = logging.getLogger(__name__)

R = TypeVar("R")


class StoreUnavailable(Exception):
    """Whether the events were kept is unknown: send them again with the same message ids."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A group on its way: its message keys uint64[n, 2] with the keys uint64[n, 2] of their users, and the keys
    uint64[m, 2] of the users that it erases and of those that it suppresses."""

    sequence: int
    future: "Future[None]"
    messages: NDArray[np.uint64]
    users: NDArray[np.uint64]
    erased: NDArray[np.uint64]
    suppressed: NDArray[np.uint64]


_NO_KEYS = np.zeros((0, 2), np.uint64)


class Journal:
    """Numbers the commit groups and remembers those that are still on their way to the store.

    The stage's thread calls everything here; futures of the store may complete on any thread, and `on_health` is told
    on that thread: it must not block, nor call back.
    """

    def __init__(self, store: Store, on_health: Callable[[bool], None]) -> None:
        self._store = store
        self._on_health = on_health
        self._pending: deque[_Pending] = deque()
        self._pending_ids = KeyTable()
        self._pending_erased = KeyTable()
        self._pending_suppressed = KeyTable()
        self._health = threading.Lock()
        """Held while `_failed` and `_generation`, and what was told of them, change."""
        self._failed = False
        self._generation = 0
        self.epoch = 0
        """Rises with every failed commit, before anyone is told of it."""
        self.sequence = 0
        self.durable = 0
        """The last group known to be durable, all before it included."""
        self.last: Future[None] = _done()
        """Done when everything given to the store so far is durable."""
        self.recover: Callable[[int], None] = lambda _: None
        """What forgets everything that was made by groups after `durable`; set by the owner of the state."""

    def commit(self, group: CommitGroup) -> "Future[None]":
        """Gives a group, numbered `self.sequence + 1`, to the store."""
        self.sequence = group.sequence
        future = self._store.commit(group)
        if future.done() and future.exception() is None:
            self._let_go()
            self.durable = group.sequence
        else:
            self._remember(group, future)
            future.add_done_callback(partial(self._note_failure, self._generation))
        self.last = future
        return future

    def commit_events(self, events: EventRows, content: Mapping[bytes, NDArray[np.float32]]) -> "Future[None]":
        """Gives recorded events to the store as the next group."""
        return self.commit(CommitGroup(sequence=self.sequence + 1, events=events, content=content))

    def message_status(self, keys: NDArray[np.uint64], users: NDArray[np.uint64] | None = None) -> NDArray[np.int8]:
        """As the store's, over what is still on its way too; `users` uint64[n, 2] are the keys of whose they are."""
        status = self._store.message_status(keys)
        if users is not None and len(self._pending_erased):
            status = np.where(self._pending_erased.find(users) >= 0, np.int8(0), status)
        if len(self._pending_ids):
            pending = self._pending_ids.find(keys)
            status = np.where(pending >= 0, pending, status).astype(np.int8)
        return status

    def suppressed(self, user_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """As the store's, over what is still on its way too."""
        suppressed = self._store.suppressed(user_keys)
        if len(self._pending_suppressed):
            suppressed = suppressed | (self._pending_suppressed.find(user_keys) >= 0)
        return suppressed

    def settle(self) -> None:
        """Lets go of groups that have become durable, and recovers after a failed one.

        Raises StoreUnavailable while the store cannot be reopened; then nothing may be applied.
        """
        self._let_go()
        if self._failed:
            self._reopen()

    def _remember(self, group: CommitGroup, future: "Future[None]") -> None:
        messages = _NO_KEYS if group.events is None else group.events.message_key
        users = _NO_KEYS if group.events is None else group.events.user_key
        if group.events is not None:
            outcome = group.events.status + APPLIED_BIT * group.events.applied
            self._pending_ids.set(messages, outcome.astype(np.int64))
        erased = np.array([erasure.user_key for erasure in group.erased], np.uint64).reshape(-1, 2)
        self._forget_messages(erased)
        self._pending_erased.set(erased, np.zeros(len(erased), np.int64))
        suppressed = np.array([erasure.user_key for erasure in group.erased if erasure.suppress], np.uint64)
        suppressed = suppressed.reshape(-1, 2)
        self._pending_suppressed.set(suppressed, np.zeros(len(suppressed), np.int64))
        self._pending.append(_Pending(group.sequence, future, messages, users, erased, suppressed))

    def _forget_messages(self, erased: NDArray[np.uint64]) -> None:
        """Lets the ids be used again that erased users' events on their way have."""
        for at, group in enumerate(self._pending if len(erased) else ()):
            gone = (group.users[:, None] == erased[None]).all(axis=2).any(axis=1)
            if gone.any():
                self._pending_ids.delete(group.messages[gone])
                self._pending[at] = replace(group, messages=group.messages[~gone], users=group.users[~gone])

    def _let_go(self) -> None:
        """Forgets the groups that have become durable; those behind one that is on its way or failed stay."""
        while self._pending and self._pending[0].future.done():
            oldest = self._pending[0]
            if oldest.future.exception() is not None:
                self._note_failure(self._generation, oldest.future)  # its own callback may still be about to run
                return
            self._pending.popleft()
            self._pending_ids.delete(oldest.messages)
            self._pending_erased.delete(oldest.erased)
            self._pending_suppressed.delete(oldest.suppressed)
            self.durable = oldest.sequence

    def _note_failure(self, generation: int, future: "Future[None]") -> None:
        error = future.exception()
        if error is None:
            return
        with self._health:
            # What was lost before the store was reopened has been dealt with.
            if generation != self._generation or self._failed:
                return
            self._failed = True
            self.epoch += 1
            logger.error("a commit failed; what came after it is refused until the store is open again", exc_info=error)
            self._on_health(False)

    def _reopen(self) -> None:
        try:
            self._store.reopen()
        except Exception as error:
            raise StoreUnavailable(f"the store failed and cannot be reopened yet: {error}") from error
        self._pending.clear()
        self._pending_ids, self._pending_erased, self._pending_suppressed = KeyTable(), KeyTable(), KeyTable()
        self.recover(self.durable)
        self.durable = self.sequence
        self.last = _done()
        with self._health:
            self._generation += 1
            self._failed = False
            logger.warning("the store is open again; users touched since its last durable group are read back")
            self._on_health(True)


def _done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


def when_durable(durable: "Future[None]", value: R) -> "Future[R]":
    """The value, once a group is durable; StoreUnavailable if it fails. Who cancels it stops waiting, no more."""
    outcome: Future[R] = Future()

    def kept(done: "Future[None]") -> None:
        error = done.exception()
        if error is not None:
            fail(outcome, StoreUnavailable(f"the change may not have been kept: {error}; send it again"))
        else:
            answer(outcome, value)

    durable.add_done_callback(kept)
    return outcome
