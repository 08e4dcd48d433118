"""Group commit: one thread writes whatever waits as one batch with one sync, in order, and answers afterwards."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError

from nextact_server.storage.seam import CommitGroup, StoreClosedError, StoreError, StoreFailedError

logger = logging.getLogger(__name__)

Waiting = tuple[CommitGroup, "Future[None]"]


class GroupCommit:
    """The queue of groups and the thread that empties it.

    `write` makes a list of groups durable and visible together. It returns how many of them, from the first on, it took
    and the error that the next one has, if any; what it raises is the failure of all of them. `on_failure` is called
    when nothing is accepted any more.
    """

    def __init__(
        self,
        write: Callable[[Sequence[CommitGroup]], tuple[int, Exception | None]],
        on_failure: Callable[[], None],
        most_events: int = 8192,
        most_bytes: int = 64 << 20,
    ) -> None:
        self._write = write
        self._on_failure = on_failure
        self._most_events, self._most_bytes = most_events, most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._writing = False
        self._failure: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nextact-commit", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> Exception | None:
        """Why nothing is written at present."""
        return self._failure

    def submit(self, group: CommitGroup) -> "Future[None]":
        """Queues a group; the future is done once it is durable, or has failed."""
        future: Future[None] = Future()
        with self._changed:
            if self._closed:
                error: Exception | None = StoreClosedError("the store is closed")
            elif self._failure is not None:
                error = _behind(self._failure)
            else:
                error = None
                self._waiting.append((group, future))
                if not self._writing and len(self._waiting) == 1:
                    self._changed.notify_all()
        if error is not None:
            future.set_exception(error)
        return future

    def fail(self, error: Exception) -> None:
        """Refuses everything from now on until `resume`; the first failure counts."""
        with self._changed:
            if self._failure is not None:
                return
            self._failure = error
            lost, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        logger.error("the store refuses commits until it is reopened: %s", error)
        self._on_failure()
        for _, future in lost:
            _settle(future, _behind(error))

    def wait_idle(self) -> None:
        """Waits until nothing is being written; meant for after a failure, when nothing begins either."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing)

    def resume(self) -> None:
        """Accepts groups again."""
        with self._changed:
            self._failure = None

    def close(self) -> None:
        """Refuses new groups, completes those that wait, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            groups = [group for group, _ in taken]
            try:
                done, refusal = self._write(groups)
            except Exception as error:
                done, refusal = 0, error if isinstance(error, StoreError) else _unexpected(error)
                failed = taken
            else:
                failed = taken[done : done + 1] if refusal is not None else []
            if refusal is not None:
                self.fail(refusal)
            with self._changed:
                self._writing = False
                self._changed.notify_all()
            for _, future in taken[:done]:
                _settle(future, None)
            for _, future in failed:
                _settle(future, refusal)
            for _, future in taken[done + len(failed) :]:
                assert refusal is not None
                _settle(future, _behind(refusal))

    def _take(self) -> list[Waiting] | None:
        """What waits, up to a number of events or bytes, or an erasure; None once nothing waits and nothing will.

        An erasure comes last: it sets message ids free, so that what is behind it is judged once it is visible.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[Waiting] = []
            events = size = 0
            while self._waiting and events < self._most_events and size < self._most_bytes:
                taken.append(self._waiting.popleft())
                group = taken[-1][0]
                events += 1
                if group.events is not None:
                    events += len(group.events)
                    size += group.events.columns.nbytes
                if group.erased:
                    break
            self._writing = bool(taken)
            return taken or None


def _behind(failure: Exception) -> StoreFailedError:
    return StoreFailedError(f"an earlier commit failed ({failure}); reopen the store first")


def _unexpected(error: Exception) -> StoreError:
    logger.error("a commit failed in a way that it should not", exc_info=error)
    wrapped = StoreError(f"commit failed: {error}")
    wrapped.__cause__ = error
    return wrapped


def _settle(future: "Future[None]", error: Exception | None) -> None:
    try:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass  # whoever waited has cancelled it; the group is kept all the same
