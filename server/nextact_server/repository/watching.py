"""Control mode poll: a look at the repository every few seconds, and what follows from it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

from nextact_server.inference.infer_errors import InferError
from nextact_server.repository.errors import RepositoryError
from nextact_server.repository.lifecycle import UNLOAD_WAIT_S, Lifecycle
from nextact_server.repository.model_state import ModelTable
from nextact_server.repository.source import RepositoryRoots

__all__ = ["RepositoryWatch"]

logger = logging.getLogger(__name__)

Wait = Callable[[float], bool]
"""Wait so many seconds; True if the wait was ended because the watch is over."""


class RepositoryWatch:
    """Notices models and versions that are new, changed or gone.

    A model is loaded on a thread of `threads`; one that still loads is left to the next look. What was half written
    fails to load, leaves the old version serving, and is tried again when it has changed.

    Args:
        pinned: models that are left alone.
        wait: given in tests; by default the end of the watch interrupts it.
    """

    def __init__(
        self,
        roots: RepositoryRoots,
        table: ModelTable,
        lifecycle: Lifecycle,
        threads: Executor,
        *,
        pinned: frozenset[str],
        seconds: float,
        wait: Wait | None = None,
    ) -> None:
        self._roots = roots
        self._table = table
        self._lifecycle = lifecycle
        self._threads = threads
        self._pinned = pinned
        self._seconds = seconds
        self._over = threading.Event()
        self._wait = wait or self._over.wait
        self._seen: dict[str, object] = {}
        self._busy: set[str] = set()
        self._thread: threading.Thread | None = None

    def remember(self) -> None:
        """Take what is there now as known: before it is loaded, so that no change after is missed."""
        self._seen = {name: self._roots.mark(name) for name in self._roots.names()}

    def start(self) -> None:
        """Begin to look, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="repository-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more. What was begun goes on."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> list[Future[None]]:
        """Look once; returns the loads and unloads that were begun."""
        try:
            names = self._roots.names()
        except RepositoryError as error:  # a repository that is away for a moment takes no model down
            logger.error("%s", error)
            return []
        begun = []
        for name in names:
            if name in self._pinned or name in self._busy:
                continue
            mark = self._roots.mark(name)
            if self._seen.get(name) != mark:
                self._seen[name] = mark
                begun.append(self._begin(name, partial(self._lifecycle.bring_up, name, retry=False)))
        gone = {record.name for record in self._table.records()} | set(self._seen)
        for name in sorted(gone - set(names) - self._pinned - self._busy):
            self._seen.pop(name, None)
            begun.append(self._begin(name, partial(self._remove, name)))
        return begun

    def _run(self) -> None:
        while not self._wait(self._seconds):
            try:
                self.look()
            except Exception:  # the next look may go better
                logger.exception("the model repository could not be looked at")

    def _begin(self, name: str, work: Callable[[], object]) -> Future[None]:
        self._busy.add(name)
        return self._threads.submit(self._work, name, work)

    def _work(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except InferError as error:  # kept for RepositoryIndex, and logged, by whoever found it
            logger.debug("%s", error.message)
        finally:
            self._busy.discard(name)

    def _remove(self, name: str) -> None:
        record = self._table.find(name)
        if record is None:
            return
        for thread in self._lifecycle.take_down(record, wanted=False):
            thread.join(UNLOAD_WAIT_S)
        self._table.forget(name)
