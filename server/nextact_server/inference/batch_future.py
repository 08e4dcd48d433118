"""Where answers go: futures, whose cancel also takes the item out of the queue, or a caller's own completion."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Protocol, TypeVar

__all__ = ["BatchFuture", "Completion", "SplitFuture", "TimedFuture", "answer", "fail"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class Completion(Protocol[R_contra]):
    """Where the answer to one item goes. Its methods are called on the batcher's threads and must not raise.

    Whoever takes the item out of the queue settles it, once. `number` is set by the batcher before the item waits;
    `Batcher.withdraw` knows the item by it.
    """

    number: int

    def begin(self) -> bool:
        """Note that the item is about to be computed; False: it was given up and settled, so it must not be."""

    def settle(self, result: R_contra | BaseException, queue_s: float = 0.0, compute_s: float = 0.0, /) -> None:
        """Take the answer or the error, and how many seconds the item waited and its batch was computed."""


class TimedFuture(Future[R]):
    """A `concurrent.futures.Future` (so `asyncio.wrap_future` takes it) that knows how long its stages took."""

    queue_s: float = 0.0
    """Seconds from submit to leaving the queue; set before the future is done."""
    compute_s: float = 0.0
    """Seconds that the computation of its batch took; set before the future is done."""


class BatchFuture(TimedFuture[R]):
    """The answer to one waiting item.

    It knows its item by number only: a caller that keeps an answer does not keep the input alive.
    """

    def __init__(self, number: int, withdraw: Callable[[int], object]) -> None:
        super().__init__()
        self.number = number
        self._withdraw = withdraw

    def cancel(self) -> bool:
        """Cancel while the item waits, freeing its place in the queue at once; False once it is being computed."""
        # Whoever takes an item out of the queue settles its future, so after this nobody else will.
        self._withdraw(self.number)
        return super().cancel()

    def begin(self) -> bool:
        """Set it running; False if it was cancelled. See `Completion`."""
        return self.set_running_or_notify_cancel()

    def settle(self, result: R | BaseException, queue_s: float = 0.0, compute_s: float = 0.0, /) -> None:
        """Give it its result or error, and the times of its stages."""
        self.queue_s = queue_s
        self.compute_s = compute_s
        if isinstance(result, BaseException):
            fail(self, result)
        else:
            answer(self, result)


class SplitFuture(TimedFuture[R]):
    """The answer to an item that was computed in parts: joined when all are there, failed by the first that fails.

    `cancel` succeeds while at least one part still waits. `compute_s` is the sum over the parts.
    """

    def __init__(self, item: T, parts: Sequence[BatchFuture[R]], join: Callable[[T, Sequence[R]], R]) -> None:
        super().__init__()
        self._parts = list(parts)
        self._left = len(self._parts)
        self._settled = False
        self._mutex = threading.Lock()
        self._join: Callable[[Sequence[R]], R] | None = lambda results: join(item, results)
        for part in self._parts:
            part.add_done_callback(self._part_done)

    def cancel(self) -> bool:
        """Cancel the parts that still wait, and with them the whole; False if every part left the queue already."""
        for part in list(self._parts):
            part.cancel()
        return self.cancelled()

    def _part_done(self, part: Future[R]) -> None:
        whole = not part.cancelled() and part.exception() is None
        with self._mutex:
            self._left -= 1
            if self._settled or (whole and self._left):
                return
            self._settled = True
            # The parts refer back here: let go of them, lest a cycle keep inputs and outputs until the collector runs.
            parts, self._parts = self._parts, []
            join, self._join = self._join, None
        assert join is not None
        self.queue_s = min(each.queue_s for each in parts)
        self.compute_s = sum(each.compute_s for each in parts)
        if not whole:
            for each in parts:
                each.cancel()
        self._settle(part, parts, join)

    def _settle(self, part: Future[R], parts: Sequence[BatchFuture[R]], join: Callable[[Sequence[R]], R]) -> None:
        if part.cancelled():
            super().cancel()
        elif (error := part.exception()) is not None:
            fail(self, error)
        else:
            try:
                joined = join([each.result() for each in parts])
            except BaseException as broken:  # whatever it is, the caller must hear of it
                fail(self, broken)
            else:
                answer(self, joined)


def answer(future: Future[R], result: R) -> None:
    """Give `future` its result, whatever its callbacks do, unless someone settled it before."""
    try:
        future.set_result(result)
    except InvalidStateError:
        pass
    except BaseException:  # a callback of the caller's: its failure is not the worker's
        logger.exception("a callback of an answered future failed")


def fail(future: Future[R], error: BaseException) -> None:
    """Give `future` an error, whatever its callbacks do, unless someone settled it before."""
    try:
        future.set_exception(error)
    except InvalidStateError:
        pass
    except BaseException:  # as above
        logger.exception("a callback of a failed future failed")
