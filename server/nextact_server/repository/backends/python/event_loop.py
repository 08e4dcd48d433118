"""The event loop of a model whose execute is a coroutine: one per instance, on a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

__all__ = ["EventLoop"]

logger = logging.getLogger(__name__)

CANCEL_WAIT_S = 5.0
"""How long tasks that were cancelled may take to end."""


class EventLoop:
    """Started with the first coroutine; a model may leave tasks on it between two executes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def ident(self) -> int:
        """The ident of its thread; 0 where it does not run."""
        return 0 if self._thread is None else self._thread.ident or 0

    def submit(
        self, coroutine: Coroutine[Any, Any, object], done: Callable[[Future[Any]], None] | None = None
    ) -> Future[Any]:
        """Begin to run a coroutine; `done` is called when it ends."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=f"{self._name}-loop", daemon=True)
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if done is not None:
            future.add_done_callback(done)
        return future

    def close(self) -> None:
        """Stop; what still runs on it is cancelled."""
        if self._loop is None or self._thread is None:
            return
        rest = asyncio.run_coroutine_threadsafe(_cancel_rest(), self._loop)
        with suppress(TimeoutError):
            rest.result(CANCEL_WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_WAIT_S)
        if self._thread.is_alive():
            logger.error("the event loop of %s is blocked, and is left behind", self._name)
        else:
            self._loop.close()
        self._loop = None


async def _cancel_rest() -> None:
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
