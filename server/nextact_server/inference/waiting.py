"""The line of waiting items: all that callers, the worker and the deadline timer share, behind one lock."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from math import inf
from typing import Any, Generic, TypeVar

from nextact_server.inference.batch_errors import BatcherClosed, BatchError, DeadlineExpired, QueueFull
from nextact_server.inference.batch_future import answer, fail
from nextact_server.inference.batch_observer import BatchObserver
from nextact_server.inference.batch_queue import BatchQueue, Job
from nextact_server.inference.clock import Clock
from nextact_server.inference.deadlines import Deadlines
from nextact_server.inference.departure import Departure, Timetable
from nextact_server.inference.levels import PriorityLevels
from nextact_server.inference.room import RoomLine

__all__ = ["WaitingLine"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class WaitingLine(Generic[T, R]):
    """Admission, withdrawal, expiry and departure. Whoever takes a job out of it settles it, outside the lock.

    The observer must not raise. `expected_batch_s` is set by the worker: what a batch takes to compute, in seconds.
    """

    def __init__(
        self,
        name: str,
        queue: BatchQueue[T, R],
        timetable: Timetable,
        *,
        max_queue_cost: int,
        levels: PriorityLevels[Any] | None,
        clock: Clock,
        observer: BatchObserver,
    ) -> None:
        self.expected_batch_s = 0.0
        self._name = name
        self._timetable = timetable
        self._max_queue_cost = max_queue_cost
        self._bounds = levels if levels is not None and levels.bounded else None
        self._clock = clock
        self._observer = observer
        self._lock = threading.Lock()  # guards what follows; never held across a callback or the observer
        self._arrived = threading.Condition(self._lock)
        self._deadline_moved = threading.Condition(self._lock)
        self._queue = queue
        self._deadlines = Deadlines(queue.__contains__)
        self._watched = inf  # until when the timer sleeps
        self._delays = Deadlines(queue.__contains__)
        self._departures = 0
        self._room = RoomLine()
        self._timer: threading.Thread | None = None
        self._closed = False

    @property
    def timer(self) -> threading.Thread | None:
        """The deadline timer's thread, which the first deadline starts."""
        return self._timer

    def admit(self, jobs: Sequence[Job[T, R]]) -> None:
        """Let all of the jobs in, or none; raises QueueFull, BatcherClosed."""
        with self._lock:
            refusal = self._enter(jobs)
        if refusal is not None:
            self._refuse(jobs, refusal)
            raise refusal

    def admit_each(self, jobs: Sequence[Job[T, R]]) -> list[tuple[Job[T, R], BatchError]]:
        """Let those jobs in that may enter, one by one; returns the others and why."""
        refused: list[tuple[Job[T, R], BatchError]] = []
        with self._lock:
            if self._enter(jobs) is not None:
                for job in jobs:
                    refusal = self._enter((job,))
                    if refusal is not None:
                        refused.append((job, refusal))
        for job, refusal in refused:
            self._refuse((job,), refusal)
        return refused

    def withdraw(self, number: int) -> bool:
        """Take out the job of that number; True if it still waited, and then its caller settles it."""
        with self._lock:
            job = self._queue.remove(number)
            admitted = self._freed()
        if job is not None:
            self._observer.cancelled(self._name, 1)
        self._open(admitted)
        return job is not None

    def take(self, jobs: list[Job[T, R]]) -> Departure | None:
        """Wait until a batch may leave and move it into `jobs`; None when closed and nothing waits."""
        queue = self._queue
        while True:
            departure: Departure | None = None
            with self._lock:
                now = self._clock.monotonic()
                overdue = self._overdue(now)
                if queue:
                    reason, limit = self._timetable.next_leaves(
                        queue, now, self._deadlines.earliest(), hurry=self._closed
                    )
                    if reason is not None:
                        taken, cost = queue.take(int(limit))
                        jobs.extend(taken)
                        reason = self._timetable.reason_left(reason, queue, taken, cost)
                        departure = Departure(self._departures, reason, cost, now)
                        self._departures += 1
                        if queue:
                            self._arrived.notify()  # more for another worker that waits, if there is one
                    elif not overdue:
                        self._clock.wait(self._arrived, limit)
                        continue
                elif self._closed:
                    self._deadline_moved.notify_all()
                elif not overdue:
                    self._clock.wait(self._arrived, None)
                    continue
                admitted = self._freed()
                done = self._closed and not queue
            self.expire(overdue, now)
            self._open(admitted)
            if departure is not None or done:
                return departure

    def room(self, cost: int) -> Future[None]:
        """Return a future that is done when `cost` fits, in the order of asking."""
        if cost > self._max_queue_cost:
            raise self._full(self._max_queue_cost, self._queue.cost, cost)
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
            job.completion.settle(BatcherClosed(self._name))
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
                job.completion.settle(DeadlineExpired(self._name, now - job.arrived))

    def _enter(self, jobs: Sequence[Job[T, R]]) -> BatchError | None:
        """Add all of the jobs, or tell why none."""
        if self._closed:
            return BatcherClosed(self._name)
        queue, timetable = self._queue, self._timetable
        queued = queue.cost
        cost = sum([job.cost for job in jobs])
        if queued + cost > self._max_queue_cost:
            return self._full(self._max_queue_cost, queued, cost)
        if self._bounds is not None and (full := self._bounds.refused(queue, jobs)) is not None:
            return self._full(*full, len(jobs))
        wake = not queued
        for job in jobs:
            queue.add(job)
            if job.expires < inf:
                # While a window is open the worker is woken only by what ends it.
                wake = wake or job.expires <= queue.oldest_arrival + timetable.delay_s
                self._set_deadline(job)
            if job.delayed < inf:
                self._delays.add(job.delayed, job.number)
            wake = wake or (timetable.delay_s > 0 and timetable.may_ripen(queue, job))
        if wake:
            self._arrived.notify()
        return None

    def _set_deadline(self, job: Job[T, R]) -> None:
        if self._timer is None:
            self._start_timer()
        self._deadlines.add(job.expires, job.number)
        if job.expires < self._watched:
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
                earliest = self._deadlines.earliest()
                # It may sleep past the end of a job that is gone: waking it for each new first one would cost more.
                self._watched = inf if earliest is None else earliest
                self._clock.wait(self._deadline_moved, earliest)
            admitted = self._freed()
        self.expire(overdue, now)
        self._open(admitted)
        return True

    def _overdue(self, now: float) -> list[Job[T, R]]:
        for number in self._delays.pop_due(now):
            self._queue.delay(number)
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

    def _refuse(self, jobs: Sequence[Job[T, R]], refusal: BatchError) -> None:
        if isinstance(refusal, QueueFull):
            self._observer.rejected(self._name, sum([job.cost for job in jobs]))

    def _full(self, limit: int, queued: int, cost: int) -> QueueFull:
        retry_after_s = self.expected_batch_s * max(1.0, self._queue.cost / self._timetable.max_cost)
        return QueueFull(self._name, limit, queued, cost, retry_after_s)
