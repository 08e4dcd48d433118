"""What waits to be batched: first come first served within a level, or beside the oldest what is most like it."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from nextact_server.inference.batch_future import Completion

__all__ = ["BatchQueue", "Job", "Prospect"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Job(Generic[T, R]):
    """One item on its way: its number (unique, rising), cost, order key, arrival and where its answer goes.

    `level` is its priority, the lowest first; only jobs of one `kind` share a batch; at `expires` it is dropped and at
    `delayed` put behind the others of its level. `follows`: a further part of the item of the job before it.
    """

    number: int
    item: T
    cost: int
    key: float
    arrived: float
    completion: Completion[R]
    level: int = 0
    kind: Hashable = None
    expires: float = inf
    delayed: float = inf
    follows: bool = False


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a batch taken now would be.

    `cost` is that of all it would hold, `preferred` the largest of the preferred sizes that its first jobs cost
    together (0: none). It cannot grow where the next would not fit (`full`) or is of another kind (`unlike`).
    """

    cost: int
    preferred: int
    full: bool
    unlike: bool


class BatchQueue(Generic[T, R]):
    """Waiting jobs and their summed cost. Not thread-safe: the batcher's lock guards it.

    Batches fill from the lowest level on and end at the first job of another kind. Within a level those that were
    delayed come last. With `ordered`, which knows neither levels nor kinds, a batch is the oldest job and its nearest
    neighbours by key, in the order of the key: like lengths are padded together, and nobody starves because the oldest
    always goes. With `padded`, a batch costs its dearest item times its count, as a padded tensor does, in place of
    the sum.
    """

    def __init__(self, *, ordered: bool, padded: bool) -> None:
        self._lanes: list[OrderedDict[int, Job[T, R]]] = [OrderedDict()]  # in the order they are served
        self._lane_keys = [0]  # 2 * level, and one more for those delayed in it
        self._by_key: list[tuple[float, int]] = []
        self._ordered = ordered
        self._total: Callable[[int, int, int], int] = _padded if padded else _summed
        self._dearest = 0
        self._count = 0
        self.cost = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return any(number in lane for lane in self._lanes)

    @property
    def oldest_arrival(self) -> float:
        """The moment the job that waits longest arrived; the queue must not be empty."""
        return min([next(iter(lane.values())).arrived for lane in self._lanes if lane])

    @property
    def reach(self) -> int:
        """What all that waits would cost as one batch; with `padded` never less than that."""
        return self._total(self.cost, self._dearest, self._count)

    @property
    def next_kind(self) -> Hashable:
        """The kind of the job that is next; the queue must not be empty."""
        return next(job.kind for lane in self._lanes for job in lane.values())

    def waiting_in(self, level: int) -> int:
        """How many jobs wait in a level, delayed or not."""
        return sum(len(lane) for key, lane in zip(self._lane_keys, self._lanes, strict=True) if key >> 1 == level)

    def add(self, job: Job[T, R]) -> None:
        """Append a job to its level."""
        lane = self._lanes[0] if len(self._lanes) == 1 and not job.level else self._lane(2 * job.level)
        lane[job.number] = job
        self._count += 1
        self.cost += job.cost
        if job.cost > self._dearest:
            self._dearest = job.cost
        if self._ordered:
            insort(self._by_key, (job.key, job.number))

    def remove(self, number: int) -> Job[T, R] | None:
        """Take out the job of that number, if it still waits."""
        for lane in self._lanes:
            job = lane.pop(number, None)
            if job is not None:
                self._gone(1, job.cost)
                if self._ordered:
                    del self._by_key[bisect_left(self._by_key, (job.key, job.number))]
                return job
        return None

    def delay(self, number: int) -> None:
        """Put the job of that number, if it still waits, behind the others of its level."""
        for lane in self._lanes:
            job = lane.pop(number, None)
            if job is not None:
                self._lane(2 * job.level + 1)[number] = job
                return

    def clear(self) -> list[Job[T, R]]:
        """Take out everything."""
        jobs = [job for lane in self._lanes for job in lane.values()]
        for lane in self._lanes:
            lane.clear()
        self._by_key.clear()
        self._count = self.cost = self._dearest = 0
        return jobs

    def prospect(self, max_cost: int, preferred: Collection[int]) -> Prospect:
        """What `take` would give, and how much of it would make a preferred size. Not with `ordered`."""
        total = spent = dearest = count = best = 0
        kind: Hashable = None
        for lane in self._lanes:
            for job in lane.values():
                if count and job.kind != kind:
                    return Prospect(total, best, full=False, unlike=True)
                kind = job.kind
                count += 1
                spent += job.cost
                dearest = max(dearest, job.cost)
                grown = self._total(spent, dearest, count)
                if grown > max_cost and count > 1:
                    return Prospect(total, best, full=True, unlike=False)
                total = grown
                if total in preferred:
                    best = total
        return Prospect(total, best, full=total >= max_cost, unlike=False)

    def take(self, max_cost: int) -> tuple[list[Job[T, R]], int]:
        """Take out the next batch and tell its cost, which passes `max_cost` only where its first does by itself."""
        return self._take_near_oldest(max_cost) if self._ordered else self._take_first(max_cost)

    def _take_first(self, max_cost: int) -> tuple[list[Job[T, R]], int]:
        batch: list[Job[T, R]] = []
        total = spent = dearest = 0
        kind: Hashable = None
        for lane in self._lanes:
            while lane:
                number, job = lane.popitem(last=False)
                cost = job.cost
                grown = self._total(spent + cost, max(dearest, cost), len(batch) + 1)
                if batch and (grown > max_cost or job.kind != kind):
                    lane[number] = job
                    lane.move_to_end(number, last=False)
                    self._gone(len(batch), spent)
                    return batch, total
                total, spent, dearest, kind = grown, spent + cost, max(dearest, cost), job.kind
                batch.append(job)
        self._gone(len(batch), spent)
        return batch, total

    def _take_near_oldest(self, max_cost: int) -> tuple[list[Job[T, R]], int]:
        by_key, jobs = self._by_key, self._lanes[0]
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
        self._gone(len(batch), spent)
        return batch, total

    def _gone(self, count: int, cost: int) -> None:
        self._count -= count
        self.cost -= cost
        if not self._count:
            self._dearest = 0

    def _lane(self, key: int) -> OrderedDict[int, Job[T, R]]:
        at = bisect_left(self._lane_keys, key)
        if at == len(self._lane_keys) or self._lane_keys[at] != key:
            self._lane_keys.insert(at, key)
            self._lanes.insert(at, OrderedDict())
        return self._lanes[at]


def _summed(spent: int, dearest: int, count: int) -> int:  # noqa: ARG001
    return spent


def _padded(spent: int, dearest: int, count: int) -> int:  # noqa: ARG001
    return dearest * count
