"""Priority levels: which one an item waits in, for how long, and how many may."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nextact_server.inference.batch_queue import BatchQueue, Job
from nextact_server.inference.infer_spec import QueuePolicy, TimeoutAction

__all__ = ["PriorityLevels"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PriorityLevels(Generic[T]):
    """Levels 1 (first) to `count`, each with its policy; `count` 0: one level for all.

    Args:
        count: number of levels.
        default: the level of an item without a priority, or with one that is no level.
        policy: of each level that `policies` does not name.
        policies: by level.
        priority: of an item; 0: none.
        timeout_us: the time an item itself gives itself to wait; 0: none. Where the policy allows it, it may shorten
            the policy's own, as Triton has it: never lengthen, nor set one where there is none.
    """

    count: int = 0
    default: int = 0
    policy: QueuePolicy = field(default_factory=QueuePolicy)
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    priority: Callable[[T], int] = lambda _: 0
    timeout_us: Callable[[T], int] = lambda _: 0

    @property
    def matter(self) -> bool:
        """Whether any item is treated otherwise than in one plain line."""
        return bool(self.count) or self.policy != QueuePolicy(allow_timeout_override=self.policy.allow_timeout_override)

    def place(self, job: Job[T, Any]) -> None:
        """Set a job's level and how long it may wait there."""
        policy = self.policy
        if self.count:
            priority = self.priority(job.item)
            job.level = priority if 0 < priority <= self.count else self.default
            policy = self.policies.get(job.level, policy)
        timeout_us = policy.default_timeout_us
        if not timeout_us:
            return
        if policy.allow_timeout_override:
            own_us = self.timeout_us(job.item)
            if 0 < own_us < timeout_us:
                timeout_us = own_us
        if policy.timeout_action is TimeoutAction.REJECT:
            job.expires = min(job.expires, job.arrived + timeout_us * 1e-6)
        else:
            job.delayed = job.arrived + timeout_us * 1e-6

    def refused(self, queue: BatchQueue[T, Any], jobs: Sequence[Job[T, Any]]) -> tuple[int, int] | None:
        """The bound of the first level that is too full for the jobs, and how many wait there; None: all may enter.

        An item in parts counts as one when it comes, so that a level of whatever size takes it.
        """
        entering: dict[int, int] = {}
        for job in jobs:
            most = self.policies.get(job.level, self.policy).max_queue_size
            if most and not job.follows:
                ahead = queue.waiting_in(job.level) + entering.get(job.level, 0)
                if ahead >= most:
                    return most, ahead
                entering[job.level] = entering.get(job.level, 0) + 1
        return None

    @property
    def bounded(self) -> bool:
        """Whether any level has a bound."""
        return any(policy.max_queue_size for policy in (self.policy, *self.policies.values()))

    @property
    def most_waiting(self) -> int:
        """How many items may wait in all levels together; 0 where a level has no bound."""
        named = [policy.max_queue_size for policy in self.policies.values()] if self.count else []
        others = max(self.count, 1) - len(named)
        if 0 in named or (others > 0 and not self.policy.max_queue_size):
            return 0
        return sum(named) + others * self.policy.max_queue_size
