"""The dynamic batcher: a queue whose workers, mostly one, take a batch whenever they are free.

There is no timer on the way of a request. While a worker computes, requests gather; when it is free it takes what
there is, so an idle batcher adds no wait and a busy one batches by itself. The design follows the router of
Text-Embeddings-Inference (https://github.com/huggingface/text-embeddings-inference): the worker pulls, size is counted
in cost, and callers that went away are not computed for.
"""

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from math import inf
from types import TracebackType
from typing import Generic, Self, TypeVar

from nextact_server.inference.answer_order import AnswerOrder
from nextact_server.inference.batch_errors import (
    BatcherClosed,
    BatchError,
    DeadlineExpired,
    QueueFull,
    WorkerCrashed,
    WrongResultCount,
)
from nextact_server.inference.batch_future import BatchFuture, Completion, SplitFuture, TimedFuture
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
from nextact_server.inference.departure import Timetable
from nextact_server.inference.job_maker import JobMaker
from nextact_server.inference.levels import PriorityLevels
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
    "Completion",
    "DeadlineExpired",
    "ManualClock",
    "MonotonicClock",
    "PriorityLevels",
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

Run = Callable[[Sequence[T]], Sequence[R | BaseException]]


def one(item: object) -> int:  # noqa: ARG001
    """Cost of an item where items are simply counted."""
    return 1


class Batcher(Generic[T, R]):
    """Gathers items from many threads into calls of `run` on threads of its own, and gives each its own answer.

    Args:
        name: what it is called in errors, reports and the names of its threads.
        run: computes a batch; returns one result per item in their order, an exception in place of a result being that
            item's failure. If it raises, it is called again with halves until what fails fails alone, so it must leave
            nothing behind when it raises. A sequence of such functions makes as many workers, one for each.
        max_cost: most that one batch may cost. Only a single item that cannot be split may pass it, alone.
        max_queue_cost: most that may wait at once.
        cost: cost of an item in rows, tokens or pixels; less than 1 counts as 1.
        max_queue_delay_s: how long a free worker waits for more from the first arrival on; 0 never waits.
        preferred: costs that a batch should have: within the window it leaves as soon as one of them waits.
        order: key by which items of a batch should be alike, such as their length; None: first come, first served.
        padded: a batch costs its dearest item times its count, not the sum.
        alike: what items of a batch must have in common; one that differs from those before it ends their batch.
        levels: priority levels with their queue policies; None: one plain line.
        preserve_ordering: answers leave in the order in which their items left the queue, also from several workers.
        together: makes, of the items of a batch, a context within which all of their answers are given.
        split: cuts an item that costs more than the given maximum into parts that do not; None: it runs alone.
        join: makes the answer to a split item of the answers to its parts; needed with `split`.
        clock: where time comes from.
        observer: who is told of batches, rejections, expiries and cancellations.

    Futures are done on the batcher's threads: a callback must be short and must not wait for the same batcher.

    Raises:
        ValueError: a limit makes no sense, only one of `split` and `join` is given, or `order` together with what it
            does not know of: `preferred`, `alike`, `levels`.
    """

    def __init__(
        self,
        name: str,
        run: Run[T, R] | Sequence[Run[T, R]],
        *,
        max_cost: int,
        max_queue_cost: int,
        cost: Callable[[T], int] = one,
        max_queue_delay_s: float = 0.0,
        preferred: Collection[int] = (),
        order: Callable[[T], float] | None = None,
        padded: bool = False,
        alike: Callable[[T], Hashable] | None = None,
        levels: PriorityLevels[T] | None = None,
        preserve_ordering: bool = False,
        together: Callable[[Sequence[T]], AbstractContextManager[object]] | None = None,
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
        if any(not 1 <= size <= max_cost for size in preferred):
            raise ValueError(f"preferred sizes of {name} must be 1 to max_cost {max_cost}, not {sorted(preferred)}")
        levels = levels if levels is not None and levels.matter else None
        if order is not None and (preferred or alike is not None or levels is not None):
            raise ValueError(f"order of {name} goes with neither preferred sizes, alike nor levels")
        runs: Sequence[Run[T, R]] = [run] if callable(run) else run
        if not runs:
            raise ValueError(f"batcher {name} needs at least one run")
        self.name = name
        self._clock = clock or MonotonicClock()
        watcher = GuardedObserver(observer) if observer else SilentObserver()
        self._queue: BatchQueue[T, R] = BatchQueue(ordered=order is not None, padded=padded)
        self._line = WaitingLine(
            name,
            self._queue,
            Timetable(max_cost, max_queue_delay_s, preferred, alike=alike is not None),
            max_queue_cost=max_queue_cost,
            levels=levels,
            clock=self._clock,
            observer=watcher,
        )
        self._jobs: JobMaker[T, R] = JobMaker(
            name,
            max_cost=max_cost,
            cost=cost,
            order=order,
            alike=alike,
            levels=levels,
            split=split,
            join=join,
            withdraw=self._line.withdraw,
        )
        answers = AnswerOrder() if preserve_ordering and len(runs) > 1 else None
        self._workers = [
            BatchWorker(
                name,
                each,
                self._line,
                self._clock,
                watcher,
                answers,
                f"batch-{name}{f'-{at}' if at else ''}",
                together,
            )
            for at, each in enumerate(runs)
        ]
        self._worker = self._workers[0]
        for worker in self._workers:
            worker.thread.start()

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
        ends = inf if deadline is None else deadline
        futures = [self._jobs.awaited(item, now, ends, jobs) for item in items]
        if not ends > now:
            self._line.expire(jobs, now)
        elif jobs:
            self._line.admit(jobs)
        return futures

    def send(self, items: Sequence[T], completions: Sequence[Completion[R]], *, together: bool = False) -> None:
        """Queue items whose answers go to completions of the caller's own, cheaper than futures; it never raises.

        An item is refused by itself, its completion told so, or with `together` all of them. `together` says that they
        are the parts of one: a level counts them as one when they come. Nothing is split here.
        """
        jobs = self._jobs.answered(items, completions, self._clock.monotonic())
        if not together:
            for job, refusal in self._line.admit_each(jobs):
                job.completion.settle(refusal)
            return
        for job in jobs[1:]:
            job.follows = True
        try:
            self._line.admit(jobs)
        except BatchError as refusal:
            for job in jobs:
                job.completion.settle(refusal)

    def withdraw(self, number: int) -> bool:
        """Take back an item that was sent; False if it does not wait any more. The caller settles what it gets back."""
        return self._line.withdraw(number)

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
        threads = [worker.thread for worker in self._workers]
        if self._line.timer is not None:
            threads.append(self._line.timer)
        if threading.current_thread() not in threads:  # a callback that closes cannot wait for its own thread
            for thread in threads:
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)
