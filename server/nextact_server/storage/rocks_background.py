"""The background: compacts generations, drops loose content, syncs by a timer, and purges erased users from files."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Background:
    """One thread that works whenever there is something to do.

    `work` does one piece and says in how many seconds it wants to be called again; None: once it is woken. What it
    raises goes to `on_failure`, and the thread pauses until `resume`.
    """

    def __init__(self, name: str, work: Callable[[], float | None], on_failure: Callable[[Exception], None]) -> None:
        self._work = work
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._woken = True
        self._paused = False
        self._busy = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def wake(self) -> None:
        """Says that there may be something to do."""
        with self._changed:
            if not self._woken:
                self._woken = True
                self._changed.notify_all()

    def pause(self) -> None:
        """Waits for the piece in work to end, which `interrupt` shortens, and lets none begin."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()
            if threading.current_thread() is not self._thread:
                self._changed.wait_for(lambda: not self._busy)

    def resume(self) -> None:
        """Goes on after `pause` or a failure."""
        with self._changed:
            self._paused = False
            self._woken = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends the thread after the piece in work."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def breathe(self) -> None:
        """Called between the parts of a piece of work: lets others have the interpreter, and ends when it must.

        Raises Interrupted.
        """
        if self._paused or self._stopping:
            raise Interrupted
        time.sleep(0)

    def _run(self) -> None:
        delay: float | None = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or (self._woken and not self._paused), delay)
                if self._stopping:
                    return
                if self._paused:
                    delay = None
                    continue
                self._woken = False
                self._busy = True
            try:
                delay = self._work()
            except Interrupted:
                delay = 0.0
            except Exception as error:
                logger.error("the store's background work failed", exc_info=error)
                self._on_failure(error)
                delay = None
                with self._changed:
                    self._paused = True
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


class Interrupted(Exception):
    """The background must pause or stop; what was begun is done again later."""
