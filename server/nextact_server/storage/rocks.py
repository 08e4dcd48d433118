"""The durable store: RocksDB in front of which the latest groups are held in memory."""

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.storage import rocks_catalogue, rocks_retention
from nextact_server.storage.content_vectors import as_hashes
from nextact_server.storage.rocks_backup import (
    DATABASE,
    ERASURES,
    SECRET,
    backup,
    erasures_repeated,
    erasures_to_repeat,
)
from nextact_server.storage.rocks_commit import GroupCommit
from nextact_server.storage.rocks_compaction import Compaction, Window
from nextact_server.storage.rocks_database import MESSAGES, Batch, Database
from nextact_server.storage.rocks_erasure import ErasureLog
from nextact_server.storage.rocks_export import export
from nextact_server.storage.rocks_keys import StoreKeys, Users, load_secret, sliced
from nextact_server.storage.rocks_maintenance import Maintenance
from nextact_server.storage.rocks_options import StoreOptions
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.rocks_past import Pasts
from nextact_server.storage.rocks_recovery import recover
from nextact_server.storage.rocks_references import References
from nextact_server.storage.rocks_retention import KnownUser
from nextact_server.storage.rocks_states import States
from nextact_server.storage.rocks_writer import SegmentWriter
from nextact_server.storage.seam import (
    NO_TIME,
    CommitGroup,
    HistoryPage,
    InvalidGroupError,
    ItemRecord,
    ReplayRows,
    StateColumns,
    StoreClosedError,
    UserColumns,
)


class RocksStore:
    """A `Store` on disk.

    A commit becomes one row of RocksDB, a segment, together with those that wait beside it, and one sync. What the
    segments say is held in memory too, in generations, until a background thread has moved it to the rows of each user;
    reads lay the generations over the database. Opening reads the segments that are left, and nothing of any user else.
    """

    def __init__(
        self,
        data_dir: Path,
        directory: Users,
        options: StoreOptions | None = None,
        *,
        write: Callable[[Database, Batch, bool], None] = Database.write_batch,
    ) -> None:
        """Opens or creates the store in a directory.

        Args:
            data_dir: where the database, its secret and the log of erasures lie.
            directory: knows the key of every ordinal that is asked about.
            options: see there.
            write: writes a batch of segments, with or without a sync; for tests that let it fail.

        Raises:
            StoreError: it is in use, damaged, of a newer version, or its secret is missing; says which and what to do.
        """
        self.options = options = options or StoreOptions()
        data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir = data_dir
        self._erasures = ErasureLog(data_dir / ERASURES)
        self._database = database = Database(
            data_dir / DATABASE,
            cache_bytes=options.cache_bytes,
            write_buffer_bytes=options.write_buffer_bytes,
            compress=options.compress,
        )
        self._keys = StoreKeys(load_secret(data_dir / SECRET, create=not database.path.exists()), directory)
        self._overlay = overlay = Overlay(0)
        self._pasts = Pasts(database, overlay)
        self._states = States(database, overlay)
        self._references = References(database, overlay, self._keys)
        window = Window(int(options.message_id_window_s * 1e6), options.message_ids_per_user)
        self._compaction = Compaction(database, overlay, self._states, self._references, window)
        self._writer = SegmentWriter(
            database,
            overlay,
            self._pasts,
            self._keys,
            self._erasures,
            write,
            sync=options.durability == "sync",
            compress=options.compress,
        )
        self._reopening = threading.Lock()
        self._closed = False
        self._recover()
        self._commits = GroupCommit(self._write, overlay.wake)
        self._maintenance = Maintenance(
            database,
            overlay,
            self._compaction,
            options,
            fail=self._commits.fail,
            failed=lambda: self._commits.failure is not None,
        )
        self._maintenance.start()

    @property
    def durability(self) -> str:
        """'sync', 'interval' or 'off', see `StoreOptions.durability`."""
        return self.options.durability

    # Writes ---------------------------------------------------------------------------------------------------------

    def commit(self, group: CommitGroup) -> "Future[None]":
        """See `Writes.commit`."""
        return self._commits.submit(group)

    def save_states(
        self,
        users: NDArray[np.int64],
        events_seen: NDArray[np.int64],
        last_time_us: NDArray[np.int64],
        states: Mapping[str, NDArray[np.float32]],
        *,
        model: str = "",
    ) -> NDArray[np.bool_]:
        """See `Writes.save_states`. Raises StoreError where the database cannot write."""
        with self._database.reading():
            names = sliced(self._keys.of_ordinals(users))
            kept = events_seen <= self._pasts.columns(names).events_seen
            self._states.save(
                [name for name, keep in zip(names, kept.tolist(), strict=True) if keep],
                events_seen[kept],
                last_time_us[kept],
                {name: values[kept] for name, values in states.items()},
                model,
            )
            return kept

    def reopen(self) -> None:
        """See `Writes.reopen`. Raises StoreError where the database cannot be opened; then it may be tried again."""
        with self._reopening:
            self._refuse_if_closed()
            failure = self._commits.failure
            if failure is None:
                return
            self._commits.wait_idle()
            if not isinstance(failure, InvalidGroupError):
                _let_go_of_frames(failure)
                self._maintenance.pause()
                self._database.close()
                self._recover()
                self._maintenance.resume()
            self._commits.resume()

    def close(self) -> None:
        """See `Writes.close`. What was acknowledged without a sync is synced."""
        with self._reopening:
            if self._closed:
                return
            self._closed = True
        self._commits.close()
        self._maintenance.stop()
        try:
            if self._commits.failure is None:
                self._database.sync()
        finally:
            self._database.close(for_good=True)

    # Reads ----------------------------------------------------------------------------------------------------------

    def message_status(self, message_keys: NDArray[np.uint64]) -> NDArray[np.int8]:
        """See `Reads.message_status`."""
        with self._database.reading():
            names = sliced(self._keys.of_hashes(message_keys))
            outcomes = self._overlay.outcomes(names)
            unknown = [at for at, outcome in enumerate(outcomes) if outcome < 0]
            vetted = self._writer.vetting()
            found = self._database.get_all(MESSAGES, [names[at] for at in unknown])
            for at, raw in zip(unknown, found, strict=True):
                outcomes[at] = 0 if raw is None else raw[0]
            vetted([names[at] for at in unknown if not outcomes[at]])
            return np.array(outcomes, np.int8)

    def suppressed(self, user_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """See `Reads.suppressed`."""
        with self._database.reading():
            return self._overlay.suppressed(lambda: sliced(self._keys.of_users(user_keys)), len(user_keys))

    def users(self, users: NDArray[np.int64]) -> UserColumns:
        """See `Reads.users`."""
        with self._database.reading():
            return self._pasts.columns(sliced(self._keys.of_ordinals(users)))

    def known(self, user_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether events are recorded of users by key [n, 2], whom the directory of this process may not know yet."""
        with self._database.reading():
            return self._pasts.columns(sliced(self._keys.of_users(user_keys))).has_history

    def load_states(self, users: NDArray[np.int64], *, model: str = "") -> StateColumns:
        """See `Reads.load_states`."""
        with self._database.reading():
            return self._states.load(sliced(self._keys.of_ordinals(users)), model)

    def replay(self, user: int, after_events_seen: int) -> ReplayRows:
        """See `Reads.replay`."""
        with self._database.reading():
            return self._pasts.replay(self._key(user), after_events_seen)

    def history(self, user: int, before: int | None, limit: int) -> HistoryPage:
        """See `Reads.history`."""
        with self._database.reading():
            return self._pasts.history(self._key(user), before, limit)

    def seen_items(self, user: int, after: int = -1) -> tuple[NDArray[np.uint64], int]:
        """See `Reads.seen_items`."""
        with self._database.reading():
            return self._pasts.seen_items(self._key(user), after)

    def content_vector(self, content_hash: bytes) -> NDArray[np.float32] | None:
        """See `Reads.content_vector`."""
        has, vectors = self.content_vectors(as_hashes(content_hash))
        return vectors[0] if has[0] else None

    def content_vectors(self, hashes: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """See `Reads.content_vectors`."""
        with self._database.reading():
            return self._references.vectors(hashes, self._writer.dimension)

    def item(self, item_id: str) -> ItemRecord | None:
        """See `Reads.item`."""
        with self._database.reading():
            return rocks_catalogue.item(self._database, self._overlay, item_id)

    def items(self, after_item_id: str, limit: int) -> tuple[ItemRecord, ...]:
        """See `Reads.items`."""
        with self._database.reading():
            return rocks_catalogue.page(self._database, self._overlay, after_item_id, limit)

    def all_items(self) -> Iterator[ItemRecord]:
        """See `Reads.all_items`. Go through all of it, or let go of it: a reopening waits for its end."""
        with self._database.reading():
            yield from rocks_catalogue.items_after(self._database, self._overlay, "")

    # Operation ------------------------------------------------------------------------------------------------------

    @property
    def uncompacted_events(self) -> int:
        """How many events are held in memory because they are not in the rows of their users yet."""
        return self._overlay.held

    def compact(self, timeout: float | None = None) -> bool:
        """Moves all that is durable now to the rows of the users; False if it took longer than `timeout` seconds, or
        the store failed."""
        return self._maintenance.compact(timeout)

    def erasures_pending(self) -> int:
        """How many users were erased whose bytes may still be in files of the database."""
        return self._maintenance.erasures_pending()

    def await_erasures(self, timeout: float | None = None) -> bool:
        """Waits until no erasure is pending; False if that took longer than `timeout` seconds."""
        return self._maintenance.await_erasures(timeout)

    def purge(self, timeout: float | None = None) -> bool:
        """Rewrites erased users' bytes out of all files now; False if compacting before took longer than `timeout`."""
        return self._maintenance.purge(timeout)

    def backup(self, target: Path) -> None:
        """Copies the store to a directory that does not exist; see `rocks_backup.backup`, and `restore` there."""
        with self._database.reading():
            backup(self._database, self._erasures, self._data_dir, target, still=self._writer.erasing)

    def export(self, since_us: int = NO_TIME, events: int = 10_000) -> Iterator[pa.RecordBatch]:
        """All that was durable when it began and received since a time; see `rocks_export.export`."""
        self.compact()
        return export(self._database, self._overlay, since_us, events)

    def known_users(self, after: bytes = b"", limit: int = 1000) -> tuple[list[KnownUser], bytes]:
        """Some of the users whose events are compacted; see `rocks_retention.known_users`."""
        with self._database.reading():
            return rocks_retention.known_users(self._database, after, limit)

    def trim(self, user: int, before_us: int, *, model: str = "") -> int:
        """Drops the events of a user that were received before a time and that the stored state under `model` has seen.

        Returns how many. Save the state at the cut first; `events_seen` keeps the lifetime's count. The newest event
        stays. Only what is compacted is dropped.
        """
        with self._database.reading(), self._compaction.turn:
            name = self._key(user)
            state = self._states.load([name], model)
            seen = int(state.events_seen[0]) if state.has[0] else 0
            return rocks_retention.trim(self._database, self._references, name, before_us, seen)

    def dropped_events(self, user: int) -> int:
        """How many of a user's events retention has dropped: if any, the history does not reach to the beginning."""
        with self._database.reading():
            facts = self._pasts.of(self._key(user)).facts
            return 0 if facts is None else facts.dropped

    # ----------------------------------------------------------------------------------------------------------------

    def _write(self, groups: Sequence[CommitGroup]) -> tuple[int, Exception | None]:
        self._maintenance.make_room()
        try:
            return self._writer.write(groups)
        finally:
            self._maintenance.written()

    def _recover(self) -> None:
        """Opens the database and reads what is not compacted."""
        try:
            self._database.open()
            self._states.forget_models()
            self._writer.dimension = recover(self._database, self._overlay, self._pasts, self.options.compact_events)
            self._writer.forget(erasures_to_repeat(self._data_dir))
            erasures_repeated(self._data_dir)
        except BaseException:
            self._database.let_go()
            raise
        finally:
            self._database.admit()

    def _key(self, user: int) -> bytes:
        return self._keys.of_ordinals(np.array([user], np.int64)).tobytes()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")


def _let_go_of_frames(error: BaseException | None) -> None:
    """Empties the frames that an error came through: an iterator in one of them would hold the database open."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
