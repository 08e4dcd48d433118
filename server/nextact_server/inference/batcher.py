"""The dynamic batcher: a queue owned by one worker that takes a batch whenever it is free.

There is no timer on the way of a request. While the worker computes, requests gather; when it is free it takes what
there is, so an idle batcher adds no wait and a busy one batches by itself. The design follows the router of
Text-Embeddings-Inference (https://github.com/huggingface/text-embeddings-inference): the worker pulls, size is counted
in cost, and callers that went away are not computed for.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, Self, TypeVar

from nextact_server.inference.batch_errors import (
    BatcherClosed,
    BatchError,
    DeadlineExpired,
    QueueFull,
    WorkerCrashed,
    WrongResultCount,
)
from nextact_server.inference.batch_future import BatchFuture, SplitFuture, TimedFuture
from nextact_server.inference.batch_observer import (
    BatchObserver,
    BatchReason,
    BatchReport,
    GuardedObserver,
    SilentObserver,
)
from nextact_server.inference.batch_queue import BatchQueue, Job
from nextact_server.inference.batch_worker import BatchWorker
from nextact_server.inference.clock import Clock, ManualClock, MonotonicClock
from nextact_server.inference.waiting import WaitingLine

__all__ = [
    "BatchError",
    "BatchFuture",
    "BatchObserver",
    "BatchReason",
    "BatchReport",
    "Batcher",
    "BatcherClosed",
    "Clock",
    "DeadlineExpired",
    "ManualClock",
    "MonotonicClock",
    "QueueFull",
    "SilentObserver",
    "SplitFuture",
    "TimedFuture",
    "WorkerCrashed",
    "WrongResultCount",
    "one",
]

T = TypeVar("T")
R = TypeVar("R")


def one(item: object) -> int:  # noqa: ARG001
    """Cost of an item where items are simply counted."""
    return 1


class Batcher(Generic[T, R]):
    """Gathers items from many threads into calls of `run` on one thread of its own, and gives each its own answer.

    Args:
        name: what it is called in errors, reports and the names of its threads.
        run: computes a batch; returns one result per item in their order, an exception in place of a result being that
            item's failure. If it raises, it is called again with halves until what fails fails alone, so it must leave
            nothing behind when it raises.
        max_cost: most that one batch may cost. Only a single item that cannot be split may pass it, alone.
        max_queue_cost: most that may wait at once.
        cost: cost of an item in rows, tokens or pixels; less than 1 counts as 1.
        max_queue_delay_s: how long a free worker waits for more from the first arrival on; 0 never waits.
        order: key by which items of a batch should be alike, such as their length; None: first come, first served.
        padded: a batch costs its dearest item times its count, not the sum.
        split: cuts an item that costs more than the given maximum into parts that do not; None: it runs alone.
        join: makes the answer to a split item of the answers to its parts; needed with `split`.
        clock: where time comes from.
        observer: who is told of batches, rejections, expiries and cancellations.

    Futures are done on the batcher's threads: a callback must be short and must not wait for the same batcher.

    Raises:
        ValueError: a limit makes no sense, or only one of `split` and `join` is given.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[T]], Sequence[R | BaseException]],
        *,
        max_cost: int,
        max_queue_cost: int,
        cost: Callable[[T], int] = one,
        max_queue_delay_s: float = 0.0,
        order: Callable[[T], float] | None = None,
        padded: bool = False,
        split: Callable[[T, int], Sequence[T]] | None = None,
        join: Callable[[T, Sequence[R]], R] | None = None,
        clock: Clock | None = None,
        observer: BatchObserver | None = None,
    ) -> None:
        if max_cost < 1:
            raise ValueError(f"max_cost of {name} must be at least 1, not {max_cost}")
        if max_queue_cost < max_cost:
            raise ValueError(f"max_queue_cost of {name} is {max_queue_cost}, less than one batch: max_cost {max_cost}")
        if not max_queue_delay_s >= 0:
            raise ValueError(f"max_queue_delay_s of {name} must not be negative, but is {max_queue_delay_s}")
        if (split is None) != (join is None):
            raise ValueError(f"batcher {name} needs both split and join, or neither")
        self.name = name
        self._max_cost = max_cost
        self._cost = cost
        self._order = order
        self._split = split
        self._join = join
        self._clock = clock or MonotonicClock()
        self._numbers = itertools.count()
        watcher = GuardedObserver(observer) if observer else SilentObserver()
        self._queue: BatchQueue[T, R] = BatchQueue(ordered=order is not None, padded=padded)
        self._line = WaitingLine(
            name,
            self._queue,
            max_cost=max_cost,
            max_queue_cost=max_queue_cost,
            delay_s=max_queue_delay_s,
            clock=self._clock,
            observer=watcher,
        )
        self._worker = BatchWorker(name, run, self._line, self._clock, watcher)
        self._worker.thread.start()

    @property
    def queued_items(self) -> int:
        """How many items, a split one by its parts, wait now."""
        return len(self._queue)

    @property
    def queued_cost(self) -> int:
        """What they cost together; never more than max_queue_cost."""
        return self._queue.cost

    def submit(self, item: T, *, deadline: float | None = None) -> TimedFuture[R]:
        """Queue an item; the future gives its answer, or cancels it for as long as it waits.

        `deadline` is a moment of the batcher's clock: if the item still waits then, its future fails with
        DeadlineExpired at that moment and it is never computed.

        Raises:
            QueueFull: no room for its cost; raised at once, and nothing is kept.
            BatcherClosed: the batcher was closed.
        """
        return self.submit_many((item,), deadline=deadline)[0]

    def submit_many(self, items: Sequence[T], *, deadline: float | None = None) -> list[TimedFuture[R]]:
        """Queue all of the items or, raising as `submit` does, none; no batch leaves between them."""
        now = self._clock.monotonic()
        jobs: list[Job[T, R]] = []
        futures = [self._prepare(item, now, jobs) for item in items]
        if deadline is not None and not deadline > now:
            self._line.expire(jobs, now)
        elif jobs:
            self._line.admit(jobs, deadline)
        return futures

    def room(self, cost: int = 1) -> Future[None]:
        """Return a future that is done once `cost` fits into the queue, in the order of those who ask.

        For those who would rather wait than be refused: `asyncio.wrap_future` it, or `result(timeout)`; `cancel` leaves
        the line. Room is shown, not reserved: another may take it first, and then one asks again. It fails with
        BatcherClosed when the batcher closes.

        Raises:
            QueueFull: the cost is over max_queue_cost, so that there never is room.
        """
        return self._line.room(cost)

    def close(self, *, drain: bool = True) -> None:
        """Take nothing more, and return when every accepted future is done.

        With `drain` what waits is still computed; without, it fails with BatcherClosed, and only the batch that is
        being computed is finished. May be called again, from any thread, also without drain while another drains.
        """
        self._line.close(drain=drain)
        threads = [self._worker.thread, *([self._line.timer] if self._line.timer else [])]
        if threading.current_thread() not in threads:  # a callback that closes cannot wait for its own thread
            for thread in threads:
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)

    def _prepare(self, item: T, now: float, jobs: list[Job[T, R]]) -> TimedFuture[R]:
        cost = self._cost(item)
        if cost <= self._max_cost or self._split is None or self._join is None:
            return self._job(item, cost, now, jobs)
        parts = self._split(item, self._max_cost)
        if not parts:
            raise ValueError(f"split of {self.name} made no parts of an item that costs {cost}")
        return SplitFuture(item, [self._job(part, self._cost(part), now, jobs) for part in parts], self._join)

    def _job(self, item: T, cost: int, now: float, jobs: list[Job[T, R]]) -> BatchFuture[R]:
        number = next(self._numbers)
        future: BatchFuture[R] = BatchFuture(number, self._line.withdraw)
        key = 0.0 if self._order is None else self._order(item)
        jobs.append(Job(number, item, max(cost, 1), key, now, future))
        return future
