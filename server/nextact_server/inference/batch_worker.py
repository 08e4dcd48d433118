"""A worker of a batcher: one thread that pulls batches, computes them and answers."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Generic, TypeVar

from nextact_server.inference.answer_order import AnswerOrder
from nextact_server.inference.batch_errors import WorkerCrashed, WrongResultCount
from nextact_server.inference.batch_observer import BatchObserver, BatchReport
from nextact_server.inference.batch_queue import Job
from nextact_server.inference.clock import Clock
from nextact_server.inference.departure import Departure
from nextact_server.inference.isolation import run_isolated
from nextact_server.inference.waiting import WaitingLine

__all__ = ["BatchWorker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class BatchWorker(Generic[T, R]):
    """Serves a waiting line until it is closed and empty, whatever `run` does. The observer must not raise.

    With `order`, which the workers of a line share, answers leave in the order in which the batches left the line. The
    answers to a batch of several are given within `together`.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[T]], Sequence[R | BaseException]],
        line: WaitingLine[T, R],
        clock: Clock,
        observer: BatchObserver,
        order: AnswerOrder | None = None,
        thread_name: str = "",
        together: Callable[[Sequence[T]], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._name = name
        self._run = run
        self._line = line
        self._clock = clock
        self._observer = observer
        self._order = order
        self._together = together
        self.thread = threading.Thread(target=self._work, name=thread_name or f"batch-{name}", daemon=True)

    def _work(self) -> None:
        serving = True
        while serving:
            jobs: list[Job[T, R]] = []
            departure: Departure | None = None
            try:
                departure = self._line.take(jobs)
                if departure is None:
                    serving = False
                else:
                    self._compute(jobs, departure)
            except BaseException as crash:
                self._recover(jobs, departure, crash)

    def _compute(self, taken: Sequence[Job[T, R]], departure: Departure) -> None:
        jobs = [job for job in taken if job.completion.begin()]
        if len(jobs) < len(taken):  # cancelled at the very moment they left
            self._observer.cancelled(self._name, len(taken) - len(jobs))
        results: list[R | BaseException] = []
        compute_s = 0.0
        if jobs:
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
        settle = _settle if self._together is None or len(jobs) < 2 else partial(_settle_together, self._together)
        self._answer(departure, partial(settle, jobs, results, departure.moment, compute_s))

    def _answer(self, departure: Departure | None, answer: Callable[[], None]) -> None:
        if self._order is None or departure is None:
            answer()
        else:
            self._order.finish(departure.number, answer)

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

    def _recover(self, jobs: Sequence[Job[T, R]], departure: Departure | None, crash: BaseException) -> None:
        """Answer everyone whom the crash touched, so that the worker can go on with those who come."""
        logger.error("worker of batcher %s crashed; it goes on with the next batch", self._name, exc_info=crash)
        # Broken off before a batch was formed, any of those who wait may be to blame: none may be left to hang.
        self._answer(departure, partial(self._fail, jobs or self._line.clear(), crash))

    def _fail(self, jobs: Sequence[Job[T, R]], crash: BaseException) -> None:
        for job in jobs:
            error = WorkerCrashed(self._name, crash)
            error.__cause__ = crash
            job.completion.settle(error)


def _settle(jobs: Sequence[Job[T, R]], results: Sequence[R | BaseException], departed: float, compute_s: float) -> None:
    for job, result in zip(jobs, results, strict=True):
        job.completion.settle(result, departed - job.arrived, compute_s)


def _settle_together(
    together: Callable[[Sequence[T]], AbstractContextManager[object]],
    jobs: Sequence[Job[T, R]],
    results: Sequence[R | BaseException],
    departed: float,
    compute_s: float,
) -> None:
    with together([job.item for job in jobs]):
        _settle(jobs, results, departed, compute_s)
