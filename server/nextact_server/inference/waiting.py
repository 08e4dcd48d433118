"""The line of waiting items: all that callers, the worker and the deadline timer share, behind one lock."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from nextact_server.inference.batch_errors import BatcherClosed, DeadlineExpired, QueueFull
from nextact_server.inference.batch_future import answer, fail
from nextact_server.inference.batch_observer import BatchObserver, BatchReason
from nextact_server.inference.batch_queue import BatchQueue, Job
from nextact_server.inference.clock import Clock
from nextact_server.inference.deadlines import Deadlines
from nextact_server.inference.room import RoomLine

__all__ = ["Departure", "WaitingLine"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Departure:
    """Why a batch left, what it costs, and the moment it did."""

    reason: BatchReason
    cost: int
    moment: float


class WaitingLine(Generic[T, R]):
    """Admission, withdrawal, expiry and departure. Whoever takes a job out of it settles its future, outside the lock.

    The observer must not raise. `expected_batch_s` is set by the worker: what a batch takes to compute, in seconds.
    """

    def __init__(
        self,
        name: str,
        queue: BatchQueue[T, R],
        *,
        max_cost: int,
        max_queue_cost: int,
        delay_s: float,
        clock: Clock,
        observer: BatchObserver,
    ) -> None:
        self.expected_batch_s = 0.0
        self._name = name
        self._max_cost = max_cost
        self._max_queue_cost = max_queue_cost
        self._delay_s = delay_s
        self._clock = clock
        self._observer = observer
        self._lock = threading.Lock()  # guards what follows; never held across a callback or the observer
        self._arrived = threading.Condition(self._lock)
        self._deadline_moved = threading.Condition(self._lock)
        self._queue = queue
        self._deadlines = Deadlines(queue.__contains__)
        self._room = RoomLine()
        self._timer: threading.Thread | None = None
        self._closed = False

    @property
    def timer(self) -> threading.Thread | None:
        """The deadline timer's thread, which the first deadline starts."""
        return self._timer

    def admit(self, jobs: Sequence[Job[T, R]], deadline: float | None) -> None:
        """Let all of the jobs in, or none; raises QueueFull, BatcherClosed."""
        cost = sum([job.cost for job in jobs])
        with self._lock:
            if self._closed:
                raise BatcherClosed(self._name)
            queue = self._queue
            queued = queue.cost
            if queued + cost <= self._max_queue_cost:
                if deadline is not None and self._timer is None:
                    self._start_timer()
                for job in jobs:
                    queue.add(job)
                if deadline is not None:
                    self._set_deadline(deadline, jobs)
                # While a window is open the worker is woken only by what ends it.
                hurried = deadline is not None and deadline <= queue.oldest_arrival + self._delay_s
                if not queued or hurried or queue.reach >= self._max_cost:
                    self._arrived.notify()
                return
        self._observer.rejected(self._name, cost)
        raise self._refusal(cost, queued)

    def withdraw(self, number: int) -> None:
        """Take out the job of that number, if it still waits; its caller settles the future by cancelling it."""
        with self._lock:
            job = self._queue.remove(number)
            admitted = self._freed()
        if job is not None:
            self._observer.cancelled(self._name, 1)
        self._open(admitted)

    def take(self, jobs: list[Job[T, R]]) -> Departure | None:
        """Wait until a batch may leave and move it into `jobs`; None when closed and nothing waits."""
        while True:
            departure: Departure | None = None
            with self._lock:
                now = self._clock.monotonic()
                overdue = self._overdue(now)
                reason, until = self._why_now(now)
                if reason is not None:
                    taken, cost = self._queue.take(self._max_cost)
                    jobs.extend(taken)
                    departure = Departure(reason, cost, now)
                elif self._closed and not self._queue:
                    self._deadline_moved.notify_all()
                elif not overdue:
                    self._clock.wait(self._arrived, until)
                    continue
                admitted = self._freed()
                done = self._closed and not self._queue
            self.expire(overdue, now)
            self._open(admitted)
            if departure is not None or done:
                return departure

    def room(self, cost: int) -> Future[None]:
        """Return a future that is done when `cost` fits, in the order of asking."""
        if cost > self._max_queue_cost:
            raise self._refusal(cost, self._queue.cost)
        with self._lock:
            future = self._room.join(cost)
            closed = self._closed
            leaving = self._room.clear() if closed else self._freed()
        self._open(leaving, closed=closed)
        return future

    def close(self, *, drain: bool) -> None:
        """Let nothing more in; without `drain` also fail what waits."""
        with self._lock:
            self._closed = True
            dropped = [] if drain else self._queue.clear()
            leaving = self._room.clear()
            self._arrived.notify_all()
            self._deadline_moved.notify_all()
        for job in dropped:
            fail(job.future, BatcherClosed(self._name))
        self._open(leaving, closed=True)

    def clear(self) -> list[Job[T, R]]:
        """Take out everything that waits."""
        with self._lock:
            jobs = self._queue.clear()
            admitted = self._freed()
        self._open(admitted)
        return jobs

    def expire(self, jobs: Sequence[Job[T, R]], now: float) -> None:
        """Tell the callers of jobs that do not wait any more that their deadline passed."""
        if jobs:
            self._observer.expired(self._name, len(jobs))
            for job in jobs:
                fail(job.future, DeadlineExpired(self._name, now - job.arrived))

    def _why_now(self, now: float) -> tuple[BatchReason | None, float | None]:
        """Why a batch may leave now; else None and until when the open window lasts, if one is open."""
        queue = self._queue
        if not queue:
            return None, None
        if queue.reach >= self._max_cost:
            return BatchReason.FULL, None
        if not self._delay_s or self._closed:
            return BatchReason.IDLE, None
        end = queue.oldest_arrival + self._delay_s
        if now >= end:
            return BatchReason.DELAY, None
        earliest = self._deadlines.earliest()
        if earliest is not None and earliest <= end:
            return BatchReason.DEADLINE, None
        return None, end

    def _set_deadline(self, deadline: float, jobs: Sequence[Job[T, R]]) -> None:
        earliest = self._deadlines.earliest()
        for job in jobs:
            self._deadlines.add(deadline, job.number)
        if earliest is None or deadline < earliest:
            self._deadline_moved.notify()

    def _start_timer(self) -> None:
        timer = threading.Thread(target=self._watch, name=f"deadline-{self._name}", daemon=True)
        timer.start()
        self._timer = timer

    def _watch(self) -> None:
        try:
            while self._expire_next():
                pass
        except BaseException:
            logger.exception("deadline timer of batcher %s crashed; the next deadline starts another", self._name)
            self._timer = None

    def _expire_next(self) -> bool:
        """Wait for a deadline to pass, however long the worker is busy; False when closed and nothing waits."""
        with self._lock:
            now = self._clock.monotonic()
            overdue = self._overdue(now)
            if not overdue:
                if self._closed and not self._queue:
                    return False
                self._clock.wait(self._deadline_moved, self._deadlines.earliest())
            admitted = self._freed()
        self.expire(overdue, now)
        self._open(admitted)
        return True

    def _overdue(self, now: float) -> list[Job[T, R]]:
        due = [self._queue.remove(number) for number in self._deadlines.pop_due(now)]
        return [job for job in due if job is not None]

    def _freed(self) -> list[Future[None]]:
        return self._room.admit(self._max_queue_cost - self._queue.cost) if self._room else []

    def _open(self, leaving: Sequence[Future[None]], *, closed: bool = False) -> None:
        for future in leaving:
            if closed:
                fail(future, BatcherClosed(self._name))
            else:
                answer(future, None)

    def _refusal(self, cost: int, queued: int) -> QueueFull:
        retry_after_s = self.expected_batch_s * max(1.0, queued / self._max_cost)
        return QueueFull(self._name, self._max_queue_cost, queued, cost, retry_after_s)
