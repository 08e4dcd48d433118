"""Versions that were swapped out: closed in the background once what they took is answered."""

import logging
import threading
import time
from collections.abc import Callable

from nextact_server.repository.model_state import LoadedModel

__all__ = ["Retirement"]

logger = logging.getLogger(__name__)


class Retirement:
    """Closes versions, each in a thread of its own, for a request in flight may take as long as it likes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closing: set[threading.Thread] = set()

    def retire(self, loaded: LoadedModel, then: Callable[[], None] = lambda: None) -> threading.Thread:
        """Close a version in the background; `then` is called when it is freed. The thread may be joined."""
        spec = loaded.served.spec
        thread = threading.Thread(
            target=self._close, args=(loaded, then), name=f"retire-{spec.name}-{spec.version}", daemon=True
        )
        with self._lock:
            self._closing.add(thread)
        thread.start()
        return thread

    def wait(self, until: float) -> list[str]:
        """Block until everything that was retired is freed, or to that moment of `time.monotonic`.

        Returns the names of the threads that still close something: a model that blocks is left behind.
        """
        while True:
            with self._lock:
                closing = list(self._closing)
            if not closing or time.monotonic() >= until:
                return [thread.name for thread in closing]
            for thread in closing:
                thread.join(max(0.0, until - time.monotonic()))

    def _close(self, loaded: LoadedModel, then: Callable[[], None]) -> None:
        try:
            loaded.served.close()
        except Exception:
            spec = loaded.served.spec
            logger.exception("model '%s' version %d did not close", spec.name, spec.version)
        if loaded.private is not None:
            loaded.private.release()
        then()
        with self._lock:
            self._closing.discard(threading.current_thread())
