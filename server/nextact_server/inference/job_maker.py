"""Items made into jobs: costed, keyed, placed and, where they are too large for a batch, split."""

import itertools
from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import Generic, TypeVar

from nextact_server.inference.batch_future import BatchFuture, Completion, SplitFuture, TimedFuture
from nextact_server.inference.batch_queue import Job
from nextact_server.inference.levels import PriorityLevels

__all__ = ["JobMaker"]

T = TypeVar("T")
R = TypeVar("R")


class JobMaker(Generic[T, R]):
    """Makes jobs by the functions of an item that a batcher was given, under numbers that rise."""

    def __init__(
        self,
        name: str,
        *,
        max_cost: int,
        cost: Callable[[T], int],
        order: Callable[[T], float] | None,
        alike: Callable[[T], Hashable] | None,
        levels: PriorityLevels[T] | None,
        split: Callable[[T, int], Sequence[T]] | None,
        join: Callable[[T, Sequence[R]], R] | None,
        withdraw: Callable[[int], object],
    ) -> None:
        self._name = name
        self._max_cost = max_cost
        self._cost = cost
        self._order = order
        self._alike = alike
        self._levels = levels
        self._split = split
        self._join = join
        self._withdraw = withdraw
        self._numbers = itertools.count()

    def job(self, item: T, cost: int, completion: Completion[R], now: float, deadline: float = inf) -> Job[T, R]:
        """The job of one item; numbers its completion."""
        number = completion.number = next(self._numbers)
        key = 0.0 if self._order is None else self._order(item)
        job = Job(number, item, max(cost, 1), key, now, completion)
        job.expires = deadline
        if self._alike is not None:
            job.kind = self._alike(item)
        if self._levels is not None:
            self._levels.place(job)
        return job

    def answered(self, items: Sequence[T], completions: Sequence[Completion[R]], now: float) -> list[Job[T, R]]:
        """Jobs, unsplit, whose answers go to the completions of their items."""
        cost, job = self._cost, self.job
        return [job(item, cost(item), completion, now) for item, completion in zip(items, completions, strict=True)]

    def awaited(self, item: T, now: float, deadline: float, jobs: list[Job[T, R]]) -> TimedFuture[R]:
        """The future of an item whose jobs, several where it is split, are appended to `jobs`."""
        cost = self._cost(item)
        if cost <= self._max_cost or self._split is None or self._join is None:
            return self._future(item, cost, now, deadline, jobs)
        parts = self._split(item, self._max_cost)
        if not parts:
            raise ValueError(f"split of {self._name} made no parts of an item that costs {cost}")
        first = len(jobs)
        futures = [self._future(part, self._cost(part), now, deadline, jobs) for part in parts]
        for job in jobs[first + 1 :]:
            job.follows = True
        return SplitFuture(item, futures, self._join)

    def _future(self, item: T, cost: int, now: float, deadline: float, jobs: list[Job[T, R]]) -> BatchFuture[R]:
        future: BatchFuture[R] = BatchFuture(0, self._withdraw)
        jobs.append(self.job(item, cost, future, now, deadline))
        return future
