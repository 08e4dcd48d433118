"""What was given to the store and how far it is durable: the arena may run ahead of the disk, its answers may not."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.key_table import KeyTable
from nextact_server.storage.seam import APPLIED_BIT, CommitGroup, EventRows, Store

logger = logging.getLogger(__name__)

R = TypeVar("R")


class StoreUnavailable(Exception):
    """Whether the events were kept is unknown: send them again with the same message ids."""


class Journal:
    """Numbers the commit groups and remembers those that are still on their way to the store.

    The stage's thread calls everything here; futures of the store may complete on any thread.
    """

    def __init__(self, store: Store, on_health: Callable[[bool], None]) -> None:
        self._store = store
        self._on_health = on_health
        self._pending: dict[int, NDArray[np.uint64]] = {}
        self._pending_ids = KeyTable()
        self._failed = False
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
            self.durable = group.sequence
        else:
            if group.events is not None:
                keys = group.events.message_key
                self._pending[group.sequence] = keys
                outcome = group.events.status + APPLIED_BIT * group.events.applied
                self._pending_ids.set(keys, outcome.astype(np.int64))
            future.add_done_callback(self._note_failure)
        self.last = future
        return future

    def commit_events(self, events: EventRows, content: Mapping[bytes, NDArray[np.float32]]) -> "Future[None]":
        """Gives recorded events to the store as the next group."""
        return self.commit(CommitGroup(sequence=self.sequence + 1, events=events, content=content))

    def message_status(self, keys: NDArray[np.uint64]) -> NDArray[np.int8]:
        """As the store's, over what is still on its way too."""
        status = self._store.message_status(keys)
        if self._pending:
            pending = self._pending_ids.find(keys)
            status = np.where(pending >= 0, pending, status).astype(np.int8)
        return status

    def settle(self) -> None:
        """Lets go of groups that have become durable, and recovers after a failed one.

        Raises StoreUnavailable while the store cannot be reopened; then nothing may be applied.
        """
        if self._failed:
            self._reopen()
        elif self._pending and self.last.done():
            self._pending.clear()
            self._pending_ids = KeyTable()
            self.durable = self.sequence

    def _note_failure(self, future: "Future[None]") -> None:
        if future.exception() is not None and not self._failed:
            self._failed = True
            logger.error(
                "a commit failed; what came after it is refused until the store is open again",
                exc_info=future.exception(),
            )
            self._on_health(False)

    def _reopen(self) -> None:
        try:
            self._store.reopen()
        except Exception as error:
            raise StoreUnavailable(f"the store failed and cannot be reopened yet: {error}") from error
        self._pending.clear()
        self._pending_ids = KeyTable()
        self.recover(self.durable)
        self.durable = self.sequence
        self.last = _done()
        self._failed = False
        logger.warning("the store is open again; users touched since its last durable group are read back")
        self._on_health(True)


def _done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


def when_durable(durable: "Future[None]", value: R) -> "Future[R]":
    """The value, once a group is durable; StoreUnavailable if it fails."""
    outcome: Future[R] = Future()

    def kept(done: "Future[None]") -> None:
        error = done.exception()
        if error is not None:
            outcome.set_exception(StoreUnavailable(f"the change may not have been kept: {error}; send it again"))
        else:
            outcome.set_result(value)

    durable.add_done_callback(kept)
    return outcome
