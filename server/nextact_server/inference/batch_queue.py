"""What waits to be batched: first come first served, or beside the oldest what is most like it."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nextact_server.inference.batch_future import BatchFuture

__all__ = ["BatchQueue", "Job"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Job(Generic[T, R]):
    """One item on its way: its number (unique, rising), cost, order key, arrival and the future of its answer."""

    number: int
    item: T
    cost: int
    key: float
    arrived: float
    future: BatchFuture[R]


class BatchQueue(Generic[T, R]):
    """Waiting jobs and their summed cost. Not thread-safe: the batcher's lock guards it.

    With `ordered`, a batch is the oldest job and its nearest neighbours by key, in the order of the key: like lengths
    are padded together, and nobody starves because the oldest always goes. With `padded`, a batch costs its dearest
    item times its count, as a padded tensor does, in place of the sum.
    """

    def __init__(self, *, ordered: bool, padded: bool) -> None:
        self._jobs: OrderedDict[int, Job[T, R]] = OrderedDict()
        self._by_key: list[tuple[float, int]] = []
        self._ordered = ordered
        self._total: Callable[[int, int, int], int] = _padded if padded else _summed
        self._dearest = 0
        self.cost = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, number: int) -> bool:
        return number in self._jobs

    @property
    def oldest_arrival(self) -> float:
        """The moment the job that waits longest arrived; the queue must not be empty."""
        return next(iter(self._jobs.values())).arrived

    @property
    def reach(self) -> int:
        """What all that waits would cost as one batch; with `padded` never less than that."""
        return self._total(self.cost, self._dearest, len(self._jobs))

    def add(self, job: Job[T, R]) -> None:
        """Append a job."""
        self._jobs[job.number] = job
        self.cost += job.cost
        if job.cost > self._dearest:
            self._dearest = job.cost
        if self._ordered:
            insort(self._by_key, (job.key, job.number))

    def remove(self, number: int) -> Job[T, R] | None:
        """Take out the job of that number, if it still waits."""
        job = self._jobs.pop(number, None)
        if job is not None:
            self._left(job)
            if self._ordered:
                del self._by_key[bisect_left(self._by_key, (job.key, job.number))]
        return job

    def clear(self) -> list[Job[T, R]]:
        """Take out everything."""
        jobs = list(self._jobs.values())
        self._jobs.clear()
        self._by_key.clear()
        self.cost = self._dearest = 0
        return jobs

    def take(self, max_cost: int) -> tuple[list[Job[T, R]], int]:
        """Take out the next batch and tell its cost, which passes `max_cost` only where the oldest does by itself."""
        return self._take_near_oldest(max_cost) if self._ordered else self._take_first(max_cost)

    def _take_first(self, max_cost: int) -> tuple[list[Job[T, R]], int]:
        batch: list[Job[T, R]] = []
        total = spent = dearest = 0
        while self._jobs:
            number, job = self._jobs.popitem(last=False)
            cost = job.cost
            grown = self._total(spent + cost, max(dearest, cost), len(batch) + 1)
            if batch and grown > max_cost:
                self._jobs[number] = job
                self._jobs.move_to_end(number, last=False)
                break
            total, spent, dearest = grown, spent + cost, max(dearest, cost)
            batch.append(job)
        self.cost -= spent
        if not self._jobs:
            self._dearest = 0
        return batch, total

    def _take_near_oldest(self, max_cost: int) -> tuple[list[Job[T, R]], int]:
        by_key, jobs = self._by_key, self._jobs
        oldest = next(iter(jobs.values()))
        low = bisect_left(by_key, (oldest.key, oldest.number))
        high = low + 1
        total = self._total(oldest.cost, oldest.cost, 1)
        spent = dearest = oldest.cost
        floor, ceiling = 0, len(by_key)  # how far it may still grow: a side whose next does not fit is closed
        while low > floor or high < ceiling:
            downward = high >= ceiling or (
                low > floor and oldest.key - by_key[low - 1][0] <= by_key[high][0] - oldest.key
            )
            cost = jobs[by_key[low - 1 if downward else high][1]].cost
            grown = self._total(spent + cost, max(dearest, cost), high - low + 1)
            if grown > max_cost:
                floor, ceiling = (low, ceiling) if downward else (floor, high)
                continue
            total, spent, dearest = grown, spent + cost, max(dearest, cost)
            low, high = (low - 1, high) if downward else (low, high + 1)
        batch = [jobs.pop(number) for _, number in by_key[low:high]]
        del by_key[low:high]
        self.cost -= spent
        if not jobs:
            self._dearest = 0
        return batch, total

    def _left(self, job: Job[T, R]) -> None:
        self.cost -= job.cost
        if not self._jobs:
            self._dearest = 0


def _summed(spent: int, dearest: int, count: int) -> int:  # noqa: ARG001
    return spent


def _padded(spent: int, dearest: int, count: int) -> int:  # noqa: ARG001
    return dearest * count
