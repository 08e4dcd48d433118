"""The store in the memory of the process: all of the seam's promises but the one of outliving the process."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.key_table import KeyTable
from nextact_server.storage.catalogue import Catalogue
from nextact_server.storage.content_vectors import ContentVectors, as_hashes
from nextact_server.storage.group_checks import check_group
from nextact_server.storage.history import History
from nextact_server.storage.message_ids import MessageIds
from nextact_server.storage.runs import runs_of
from nextact_server.storage.seam import (
    CommitGroup,
    Erasure,
    EventRows,
    HistoryPage,
    InvalidGroupError,
    ItemRecord,
    ReplayRows,
    StateColumns,
    StoreClosedError,
    StoreError,
    StoreFailedError,
    UserColumns,
)
from nextact_server.storage.states import StateTable, no_states
from nextact_server.storage.user_table import UserTable


class MemoryStore:
    """A `Store` whose groups are applied, and durable as far as it goes, when `commit` returns.

    One short lock covers a commit and the look-ups; walks through a user's history run beside commits.
    """

    def __init__(self, *, message_id_window_s: float = 7 * 86_400.0, message_ids_per_user: int = 10_000) -> None:
        """Makes an empty store that remembers message ids for the larger of a time and a number per user."""
        self._lock = threading.Lock()
        self._users = UserTable()
        self._history = History()
        self._message_ids = MessageIds(int(message_id_window_s * 1e6), message_ids_per_user)
        self._content = ContentVectors()
        self._catalogue = Catalogue()
        self._states: dict[str, StateTable] = {}
        self._suppressed = KeyTable()
        self._last_sequence = -(1 << 63)
        self._failure: BaseException | None = None
        self._half_applied = False
        self._closed = False

    @property
    def durability(self) -> str:
        """'memory'."""
        return "memory"

    def commit(self, group: CommitGroup) -> Future[None]:
        """Applies a group; the future is done. See `Writes.commit`."""
        done: Future[None] = Future()
        with self._lock:
            try:
                self._refuse_if_closed()
                if self._failure is not None:
                    raise StoreFailedError(f"an earlier commit failed ({self._failure}); reopen the store first")
                self._commit(group)
            except Exception as error:
                if self._failure is None and not self._closed:
                    self._failure = error
                done.set_exception(error)
            else:
                done.set_result(None)
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
        with self._lock:
            self._refuse_if_closed()
            table = self._states.get(model) or StateTable(states)
            kept = events_seen <= self._users.events_seen(users)
            table.save(
                users[kept], events_seen[kept], last_time_us[kept], {name: rows[kept] for name, rows in states.items()}
            )
            self._states[model] = table
            return kept

    def reopen(self) -> None:
        """See `Writes.reopen`.

        Raises:
            StoreError: the failed group was applied in part (memory ran out); only a new store is consistent.
        """
        with self._lock:
            self._refuse_if_closed()
            if self._half_applied:
                raise StoreError(f"a group was applied in part before it failed ({self._failure}): restart the server")
            self._failure = None

    def close(self) -> None:
        """See `Writes.close`."""
        with self._lock:
            self._closed = True

    def message_status(self, message_keys: NDArray[np.uint64]) -> NDArray[np.int8]:
        """See `Reads.message_status`."""
        with self._lock:
            self._refuse_if_closed()
            return self._message_ids.outcomes(message_keys)

    def suppressed(self, user_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """See `Reads.suppressed`."""
        with self._lock:
            self._refuse_if_closed()
            if not len(self._suppressed):
                return np.zeros(len(user_keys), np.bool_)
            return self._suppressed.find(user_keys) >= 0

    def users(self, users: NDArray[np.int64]) -> UserColumns:
        """See `Reads.users`."""
        with self._lock:
            self._refuse_if_closed()
            return self._users.columns(users)

    def load_states(self, users: NDArray[np.int64], *, model: str = "") -> StateColumns:
        """See `Reads.load_states`."""
        with self._lock:
            self._refuse_if_closed()
            table = self._states.get(model)
            return no_states(len(users)) if table is None else table.load(users)

    def replay(self, user: int, after_events_seen: int) -> ReplayRows:
        """See `Reads.replay`."""
        newest, events_seen = self._newest(user)
        wanted = events_seen - after_events_seen
        numbers: list[int] = []
        if wanted > 0:
            for row, applied in self._history.walk(newest):
                if applied:
                    numbers.append(row)
                    if len(numbers) == wanted:
                        break
        rows = self._history.rows(np.array(numbers[::-1], np.int64))
        return ReplayRows(*(rows[name].copy() for name in ReplayRows.__dataclass_fields__))

    def history(self, user: int, before: int | None, limit: int) -> HistoryPage:
        """See `Reads.history`."""
        start = self._newest(user)[0] if before is None else self._history.before(before, user)
        numbers: list[int] = []
        more = False
        for row, _ in self._history.walk(start):
            if len(numbers) == limit:
                more = True
                break
            numbers.append(row)
        rows, columns = self._history.rows_and_raw(np.array(numbers, np.int64))
        return HistoryPage.of(rows, columns, numbers[-1] if more and numbers else None)

    def seen_items(self, user: int, after: int = -1) -> tuple[NDArray[np.uint64], int]:
        """See `Reads.seen_items`."""
        newest, _ = self._newest(user)
        numbers: list[int] = []
        for row, _ in self._history.walk(newest):
            if row <= after:
                break
            numbers.append(row)
        rows = self._history.rows(np.array(numbers, np.int64))
        return rows["item_key"][rows["has_item"]], max(newest, after)

    def content_vector(self, content_hash: bytes) -> NDArray[np.float32] | None:
        """See `Reads.content_vector`."""
        has, vectors = self.content_vectors(as_hashes(content_hash))
        return vectors[0] if has[0] else None

    def content_vectors(self, hashes: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See `Reads.content_vectors`."""
        with self._lock:
            self._refuse_if_closed()
            return self._content.get(hashes)

    def item(self, item_id: str) -> ItemRecord | None:
        """See `Reads.item`."""
        with self._lock:
            self._refuse_if_closed()
            return self._catalogue.get(item_id)

    def items(self, after_item_id: str, limit: int) -> tuple[ItemRecord, ...]:
        """See `Reads.items`."""
        with self._lock:
            self._refuse_if_closed()
            return self._catalogue.page(after_item_id, limit)

    def all_items(self) -> Iterator[ItemRecord]:
        """See `Reads.all_items`."""
        with self._lock:
            self._refuse_if_closed()
            return iter(self._catalogue.all())

    def _newest(self, user: int) -> tuple[int, int]:
        """Newest row and applied events of a user, of one moment."""
        with self._lock:
            self._refuse_if_closed()
            return self._users.newest(user)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")

    def _commit(self, group: CommitGroup) -> None:
        check_group(group, self._last_sequence, self._content.dimension)
        events = group.events if group.events is not None and len(group.events) else None
        if events is not None and self._message_ids.any_known(events.message_key):
            raise InvalidGroupError(
                "events.message_key holds a message that is recorded already; ask message_status first"
            )
        self._half_applied = True
        for item in group.items:
            self._drop_content(self._catalogue.put(item), item)
        for item_id in group.deleted_items:
            self._drop_content(self._catalogue.remove(item_id), None)
        if events is not None:
            self._record(events)
        for content_hash, vector in group.content.items():
            self._content.put(content_hash, vector)
        for erasure in group.erased:
            self._erase(erasure)
        self._last_sequence = group.sequence
        self._half_applied = False

    def _record(self, events: EventRows) -> None:
        runs = runs_of(events.user)
        first_row = self._history.next_row
        self._history.append(events, self._users.link(runs, first_row))
        self._message_ids.add(runs, events)
        self._content.refer(events.content_hash)
        self._users.record(runs, events.applied, events.effective_time_us, first_row)

    def _drop_content(self, before: ItemRecord | None, after: ItemRecord | None) -> None:
        """Moves an item's reference from its content before to that after."""
        if (
            before is not None
            and after is not None
            and before.content_hash == after.content_hash
            and before.vector is after.vector
        ):
            return  # registered again as it was: nothing to count, and the vector is there
        if after is not None and after.content_hash is not None:
            self._content.refer(as_hashes(after.content_hash))
            if after.vector is not None:
                self._content.put(after.content_hash, after.vector)
        if before is not None and before.content_hash is not None:
            self._content.release(as_hashes(before.content_hash))

    def _erase(self, erasure: Erasure) -> None:
        newest, _ = self._users.newest(erasure.user)
        numbers = np.array([row for row, _ in self._history.walk(newest)], np.int64)
        self._content.release(self._history.rows(numbers)["content_hash"])
        self._history.cut(numbers)
        self._message_ids.erase(erasure.user)
        self._users.erase(erasure.user)
        for table in self._states.values():
            table.erase(erasure.user)
        if erasure.suppress:
            self._suppressed.find_or_insert(np.array([erasure.user_key], np.uint64))
