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
    """Started with the first coroutine; a model may leave tasks on it between two executes.

    It ends when it is closed, whatever the model's code does: not by its `loop.stop()`, nor by a `sys.exit()` of one of
    its tasks, which would leave everything that awaits without an answer.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def ident(self) -> int:
        """The ident of its thread; 0 where it does not run."""
        return 0 if self._thread is None else self._thread.ident or 0

    def submit(
        self, coroutine: Coroutine[Any, Any, object], done: Callable[[Future[Any]], None] | None = None
    ) -> Future[Any]:
        """Begin to run a coroutine; `done` is called when it ends, on whichever thread."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._run, args=(self._loop,), name=f"{self._name}-loop", daemon=True
            )
            self._thread.start()
        future: Future[Any] = Future()
        if done is not None:
            future.add_done_callback(done)
        self._loop.call_soon_threadsafe(self._begin, coroutine, future)
        return future

    def close(self) -> None:
        """Stop; what still runs on it is cancelled."""
        if self._loop is None or self._thread is None:
            return
        rest = asyncio.run_coroutine_threadsafe(_cancel_rest(), self._loop)
        with suppress(TimeoutError):
            rest.result(CANCEL_WAIT_S)
        self._is_closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CANCEL_WAIT_S)
        if self._thread.is_alive():
            logger.error("the event loop of %s is blocked, and is left behind", self._name)
        else:
            self._loop.close()
        self._loop = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._is_closing:
            try:
                loop.run_forever()
            except BaseException as error:
                logger.error("a task of %s ended with %r; its event loop goes on", self._name, error)

    def _begin(self, coroutine: Coroutine[Any, Any, object], future: Future[Any]) -> None:
        task = asyncio.ensure_future(_settle(coroutine, future))
        self._tasks.add(task)  # the loop itself does not keep it alive
        task.add_done_callback(lambda task: self._ended(task, future))

    def _ended(self, task: asyncio.Task[None], future: Future[Any]) -> None:
        self._tasks.discard(task)
        future.cancel()  # where it was cancelled before its first step, and settled nothing


async def _settle(coroutine: Coroutine[Any, Any, object], future: Future[Any]) -> None:
    """Run a coroutine to its end, and give the future its outcome, also where that would end a loop."""
    try:
        result = await coroutine
    except asyncio.CancelledError:
        future.cancel()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


async def _cancel_rest() -> None:
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
