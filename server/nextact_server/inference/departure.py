"""When a batch leaves, and how much of what waits it takes along."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from nextact_server.inference.batch_observer import BatchReason
from nextact_server.inference.batch_queue import BatchQueue, Job

__all__ = ["Departure", "Timetable"]


@dataclass(frozen=True, slots=True)
class Departure:
    """A batch that left: its place among all that left (from 0), why, what it costs, and the moment it did."""

    number: int
    reason: BatchReason
    cost: int
    moment: float


class Timetable:
    """Says of a queue whether a batch may leave.

    Without a window a free worker takes what there is. With one it waits for more from the first arrival on, until as
    much waits as a batch holds, or one of the preferred sizes, or the window or the life of a waiting job ends.

    Args:
        max_cost: most that one batch may cost.
        delay_s: length of the window; 0: none.
        preferred: costs that a batch should have; only a window looks at them.
        alike: the kinds of jobs matter, so that a batch may end before it is full.
    """

    def __init__(self, max_cost: int, delay_s: float, preferred: Collection[int], *, alike: bool) -> None:
        self.max_cost = max_cost
        self.delay_s = delay_s
        self._preferred = frozenset(preferred)
        self._enough = max(preferred, default=max_cost)
        self._alike = alike
        self._looks_inside = alike or any(size < max_cost for size in preferred)  # a full batch is seen from outside

    def next_leaves(
        self, queue: BatchQueue[Any, Any], now: float, first_deadline: float | None, *, hurry: bool
    ) -> tuple[BatchReason | None, float]:
        """Why a batch may leave now and what it may cost; else None and until when the open window lasts."""
        if not self.delay_s or hurry:
            return BatchReason.IDLE, self.max_cost
        end = queue.oldest_arrival + self.delay_s
        if now >= end:
            return BatchReason.DELAY, self.max_cost
        if self._looks_inside:
            seen = queue.prospect(self.max_cost, self._preferred)
            if seen.preferred and seen.preferred < self.max_cost:
                return BatchReason.PREFERRED, seen.preferred
            if seen.full or seen.preferred:
                return BatchReason.FULL, self.max_cost
            if seen.unlike:
                return BatchReason.UNLIKE, self.max_cost
            if seen.cost >= self._enough:
                return BatchReason.PREFERRED, self.max_cost
        elif queue.reach >= self.max_cost:
            return BatchReason.FULL, self.max_cost
        if first_deadline is not None and first_deadline <= end:
            return BatchReason.DEADLINE, self.max_cost
        return None, end

    def reason_left(
        self, reason: BatchReason, queue: BatchQueue[Any, Any], taken: list[Job[Any, Any]], cost: int
    ) -> BatchReason:
        """The reason to report of a batch that was taken, by what it left behind."""
        if reason is not BatchReason.IDLE and reason is not BatchReason.DELAY:
            return reason
        if queue and self._alike and queue.next_kind != taken[0].kind:
            return BatchReason.UNLIKE if reason is BatchReason.IDLE and cost < self.max_cost else reason
        return BatchReason.FULL if queue or cost >= self.max_cost else reason

    def may_ripen(self, queue: BatchQueue[Any, Any], job: Job[Any, Any]) -> bool:
        """Whether the job that was added last may let a batch leave before its window ends."""
        if queue.reach >= self.max_cost:
            return True
        if not self._looks_inside:
            return False
        # Whether it does is for the worker to find out: here only what never does is told apart, at no cost.
        return self._alike or bool(job.level) or queue.cost in self._preferred or queue.cost >= self._enough
