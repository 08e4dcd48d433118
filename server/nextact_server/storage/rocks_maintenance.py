"""The store's work in the background: compaction, purging of erased bytes, syncing by a timer."""

import threading
import time
from collections.abc import Callable

from nextact_server.storage.rocks_background import Background
from nextact_server.storage.rocks_compaction import Compaction
from nextact_server.storage.rocks_database import Database
from nextact_server.storage.rocks_generation import Generation
from nextact_server.storage.rocks_options import StoreOptions
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.rocks_purge import marked_users, purge

_BUSY_S = 0.05
"""Commits count as coming for this long after the last one."""


class Maintenance:
    """Decides when to do what, each kind of work on a thread of its own.

    `fail` is told what went wrong: the store refuses commits then, until it is reopened. `failed` says whether it does.
    """

    def __init__(
        self,
        database: Database,
        overlay: Overlay,
        compaction: Compaction,
        options: StoreOptions,
        fail: Callable[[Exception], None],
        failed: Callable[[], bool],
    ) -> None:
        self._database, self._overlay, self._compaction, self._options = database, overlay, compaction, options
        self._failed = failed
        self._written_at = time.monotonic()
        self._unsynced = False
        self._hurry = 0
        self._stopped = False
        self._purged = threading.Condition()
        self._compactor = Background("nextact-compact", self._compact_one, fail)
        self._purger = Background("nextact-purge", self._purge_when_due, fail)
        self._workers = [self._compactor, self._purger]
        if options.durability == "interval":
            self._workers.append(Background("nextact-sync", self._sync, fail))

    def start(self) -> None:
        """Begins."""
        for worker in self._workers:
            worker.start()

    def pause(self) -> None:
        """Waits for what is underway and begins nothing new."""
        for worker in self._workers:
            worker.pause()

    def resume(self) -> None:
        """Goes on after `pause`, or after a failure."""
        for worker in self._workers:
            worker.resume()

    def stop(self) -> None:
        """Ends all threads, and all waiting for them."""
        self._stopped = True
        self._overlay.wake()
        for worker in self._workers:
            worker.stop()

    def make_room(self) -> None:
        """Waits while more is held in memory than is allowed. Called before segments are written."""
        overlay, most = self._overlay, self._options.most_uncompacted_events
        if overlay.held > most:
            overlay.seal()
            self._compactor.wake()
            with overlay.changed:
                overlay.changed.wait_for(lambda: overlay.held <= most or self._failed())

    def written(self) -> None:
        """Called after segments were written."""
        self._unsynced = True
        self._written_at = time.monotonic()
        youngest, options = self._overlay.youngest, self._options
        if len(youngest) >= options.compact_events or youngest.nbytes >= options.compact_bytes or youngest.erased:
            self._overlay.seal()
            self._compactor.wake()

    def compact(self, timeout: float | None) -> bool:
        """See `RocksStore.compact`."""
        overlay = self._overlay
        overlay.seal()
        limit = overlay.next_number
        self._hurry += 1
        self._compactor.wake()
        with overlay.changed:
            overlay.changed.wait_for(lambda: overlay.oldest >= limit or self._failed() or self._stopped, timeout)
        self._hurry -= 1
        return overlay.oldest >= limit

    def purge(self, timeout: float | None) -> bool:
        """See `RocksStore.purge`."""
        if not self.compact(timeout):
            return False
        with self._database.reading():
            self._purge(list(marked_users(self._database)))
        return True

    def erasures_pending(self) -> int:
        """See `RocksStore.erasures_pending`."""
        with self._database.reading():
            return len(self._overlay.erased | marked_users(self._database).keys())

    def await_erasures(self, timeout: float | None) -> bool:
        """See `RocksStore.await_erasures`."""
        with self._purged:
            return self._purged.wait_for(lambda: self.erasures_pending() == 0, timeout)

    def _compact_one(self) -> float | None:
        generation = self._overlay.sealed()
        if generation is None:
            youngest = self._overlay.youngest
            due = youngest.made_at + self._options.compact_after_s - time.monotonic()
            if not youngest.segments or due > 0:
                return max(due, self._options.compact_after_s / 2)
            self._overlay.seal()
        elif self._may_wait(generation):
            return _BUSY_S
        else:
            self._compaction.run(generation, self._compactor.breathe)
            if generation.erased:
                self._purger.wake()
        return 0.0

    def _may_wait(self, generation: Generation) -> bool:
        """Whether commits come at present, and a generation can stay until they leave the processor to it."""
        now = time.monotonic()
        return not (
            self._hurry
            or self._overlay.erased
            or now - self._written_at > _BUSY_S
            or now - generation.made_at > self._options.compact_after_s
            or self._overlay.held > self._options.most_uncompacted_events // 2
        )

    def _purge_when_due(self) -> float | None:
        marked = marked_users(self._database)
        if not marked:
            return None
        due = min(marked.values()) / 1e6 + self._options.purge_within_s / 2 - time.time()
        if due > 0:
            return due
        self._purge(list(marked))
        return None

    def _purge(self, users: list[bytes]) -> None:
        purge(self._database, users)
        with self._purged:
            self._purged.notify_all()

    def _sync(self) -> float | None:
        if self._unsynced:
            self._unsynced = False
            self._database.sync()
        return self._options.sync_interval_s
