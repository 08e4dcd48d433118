"""Many futures as one: their last completion is what is waited for, once, whoever waits."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


def when_all_done(futures: Sequence["Future[Any]"], then: Callable[[], None]) -> None:
    """Calls `then` once, on the thread that completes the last of the futures; at once if there is none to wait for."""
    left = len(futures)
    if not left:
        then()
        return
    lock = threading.Lock()

    def one_done(_: "Future[Any]") -> None:
        nonlocal left
        with lock:
            left -= 1
            last = not left
        if last:
            then()

    for future in futures:
        future.add_done_callback(one_done)


async def all_done(futures: Sequence["Future[Any]"]) -> None:
    """Waits until all futures are done, however they end. The event loop is woken once, not once per future."""
    pending = [future for future in futures if not future.done()]
    if not pending:
        return
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(woken.set)

    when_all_done(pending, wake)
    await woken.wait()
