"""The worker of a batcher: one thread that pulls batches, computes them and answers."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from nextact_server.inference.batch_errors import WorkerCrashed, WrongResultCount
from nextact_server.inference.batch_future import answer, fail
from nextact_server.inference.batch_observer import BatchObserver, BatchReport
from nextact_server.inference.batch_queue import Job
from nextact_server.inference.clock import Clock
from nextact_server.inference.isolation import run_isolated
from nextact_server.inference.waiting import Departure, WaitingLine

__all__ = ["BatchWorker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class BatchWorker(Generic[T, R]):
    """Serves a waiting line until it is closed and empty, whatever `run` does. The observer must not raise."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[T]], Sequence[R | BaseException]],
        line: WaitingLine[T, R],
        clock: Clock,
        observer: BatchObserver,
    ) -> None:
        self._name = name
        self._run = run
        self._line = line
        self._clock = clock
        self._observer = observer
        self.thread = threading.Thread(target=self._work, name=f"batch-{name}", daemon=True)

    def _work(self) -> None:
        serving = True
        while serving:
            jobs: list[Job[T, R]] = []
            try:
                departure = self._line.take(jobs)
                if departure is None:
                    serving = False
                else:
                    self._compute(jobs, departure)
            except BaseException as crash:
                self._recover(jobs, crash)

    def _compute(self, taken: Sequence[Job[T, R]], departure: Departure) -> None:
        jobs = [job for job in taken if job.future.set_running_or_notify_cancel()]
        if len(jobs) < len(taken):  # cancelled at the very moment they left
            self._observer.cancelled(self._name, len(taken) - len(jobs))
        if not jobs:
            return
        results: list[R | BaseException] = []
        runs = 1
        crashed = True
        try:
            results, runs = run_isolated(self._name, self._run, [job.item for job in jobs])
            crashed = False
        except WrongResultCount as error:
            results = [error] * len(jobs)
            crashed = False
        finally:
            failures = len(jobs) if crashed else sum([isinstance(result, BaseException) for result in results])
            compute_s = self._report(jobs, departure, failures, runs, crashed)
        for job, result in zip(jobs, results, strict=True):
            job.future.queue_s = departure.moment - job.arrived
            job.future.compute_s = compute_s
            if isinstance(result, BaseException):
                fail(job.future, result)
            else:
                answer(job.future, result)

    def _report(
        self, jobs: Sequence[Job[T, R]], departure: Departure, failures: int, runs: int, crashed: bool
    ) -> float:
        compute_s = self._clock.monotonic() - departure.moment
        expected_s = self._line.expected_batch_s
        self._line.expected_batch_s = expected_s + 0.2 * (compute_s - expected_s) if expected_s else compute_s
        report = BatchReport(
            name=self._name,
            reason=departure.reason,
            items=len(jobs),
            cost=departure.cost,
            queue_s=departure.moment * len(jobs) - sum([job.arrived for job in jobs]),
            oldest_queue_s=departure.moment - min([job.arrived for job in jobs]),
            compute_s=compute_s,
            failures=failures,
            runs=runs,
            crashed=crashed,
        )
        self._observer.batch_done(report)
        return compute_s

    def _recover(self, jobs: Sequence[Job[T, R]], crash: BaseException) -> None:
        """Answer everyone whom the crash touched, so that the worker can go on with those who come."""
        logger.error("worker of batcher %s crashed; it goes on with the next batch", self._name, exc_info=crash)
        # Broken off before a batch was formed, any of those who wait may be to blame: none may be left to hang.
        for job in jobs or self._line.clear():
            error = WorkerCrashed(self._name, crash)
            error.__cause__ = crash
            fail(job.future, error)
