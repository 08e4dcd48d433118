"""The rate limiter: model instances share named resources and take turns, across all models of the server.

How schedulers use it: they do not. Whoever makes an instance registers its placement and wraps its execution,

    limiter.register(placement)                              # InferError where it could never run
    execution = limited(execution, placement, limiter)       # what schedulers run
    ...
    limiter.unregister(placement)                            # when the version is unloaded

so that a scheduler only ever calls `execution.run`. Off, as Triton has it by default, nothing is limited and the
execution is given back as it is. The rules are Triton's
(https://github.com/triton-inference-server/server/blob/main/docs/user_guide/rate_limiter.md): an instance of priority
2 gets half the turns of one of priority 1 while both wait, 0 counts as 1; a resource is counted per device unless it
is global; without explicit limits there is as much of it as the instance that needs most.
"""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from nextact_server.inference.clock import Clock, MonotonicClock
from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import Placement
from nextact_server.inference.instance import Result

__all__ = ["RateLimitMode", "RateLimiter", "Runs", "limited"]

COURTESY_S = 0.002
"""How long an instance that had a turn just now keeps its place before those behind it, while its answers go out."""

_Resource = tuple[str, int | None]
"""A name and a device; None where it is global."""


class RateLimitMode(StrEnum):
    """The values of Triton's --rate-limit."""

    OFF = "off"
    EXECUTION_COUNT = "execution_count"


class Runs(Protocol):
    """What schedulers need of an Execution."""

    def run(self, requests: Sequence[InferRequest]) -> Sequence[Result]:
        """A result per request."""


@dataclass(slots=True, eq=False)
class _Member:
    need: dict[_Resource, int]
    weight: int
    registrations: int = 1
    turn: int = 0  # the turns it had, each counted `weight` times


@dataclass(slots=True, eq=False)
class _Waiter:
    member: _Member
    number: int
    granted: bool = field(default=False)


class RateLimiter:
    """Lends resources to instances for one execution each.

    Args:
        limits: how much there is of each resource, by name for every device and for global ones, or by `name:device`
            for that device alone; the CPU counts as device 0, as in Triton. Given any, a resource that is not named
            does not exist. None or empty: as much as the instance needs that needs most.
        mode: OFF lends everything to everyone at once.
        clock: where time comes from.
    """

    def __init__(
        self,
        limits: Mapping[str, int] | None = None,
        *,
        mode: RateLimitMode = RateLimitMode.OFF,
        clock: Clock | None = None,
    ) -> None:
        self._explicit = dict(limits or {})
        self._enforced = mode is RateLimitMode.EXECUTION_COUNT
        self._clock = clock or MonotonicClock()
        self._changed = threading.Condition()  # guards what follows
        self._members: dict[Placement, _Member] = {}
        self._limits: dict[_Resource, int] = {}
        self._lent: dict[_Resource, int] = {}
        self._waiting: list[_Waiter] = []
        self._numbers = itertools.count()
        self._level = 0  # the turn of who was served last: who comes after a rest has no older claim than that
        self._leavers: dict[_Member, float] = {}  # who had a turn just now, and until when it may come back

    def register(self, placement: Placement) -> None:
        """Let an instance take part; equal placements, as two versions of a model have, share their turns.

        Raises:
            InferError: INVALID_ARG where explicit limits would never let it run, or where one resource is both
                global and of a device.
        """
        with self._changed:
            member = self._members.get(placement)
            if member is not None:
                member.registrations += 1
                return
            member = _Member(_need(placement), max(placement.group.rate_priority, 1), turn=self._level)
            if self._enforced:
                self._check(member.need)
            self._members[placement] = member
            self._set_limits()

    def unregister(self, placement: Placement) -> None:
        """Take an instance out again; it must not be running."""
        with self._changed:
            member = self._members[placement]
            member.registrations -= 1
            if not member.registrations:
                del self._members[placement]
                self._set_limits()
                self._grant()

    def needs(self, placement: Placement) -> bool:
        """Whether that instance ever has to wait for its turn."""
        return self._enforced and bool(placement.group.resources)

    def use(self, placement: Placement) -> AbstractContextManager[None]:
        """Wait for the instance's turn and hold its resources within the `with`. It must be registered."""
        return self._holding(self._members[placement]) if self.needs(placement) else nullcontext()

    @contextmanager
    def _holding(self, member: _Member) -> Iterator[None]:
        self._acquire(member)
        try:
            yield
        finally:
            self._release(member)

    def _acquire(self, member: _Member) -> None:
        with self._changed:
            member.turn = max(member.turn, self._level)
            waiter = _Waiter(member, next(self._numbers))
            self._waiting.append(waiter)
            self._leavers.pop(member, None)
            self._grant()
            while not waiter.granted:
                self._clock.wait(self._changed, min(self._leavers.values(), default=None))
                self._grant()

    def _release(self, member: _Member) -> None:
        with self._changed:
            for resource, count in member.need.items():
                self._lent[resource] -= count
            self._leavers[member] = self._clock.monotonic() + COURTESY_S
            self._grant()
            self._changed.notify_all()  # they look again when the courtesy is over

    def _grant(self) -> None:
        now = self._clock.monotonic()
        self._leavers = {member: end for member, end in self._leavers.items() if end > now}
        claimed: set[_Resource] = set()  # by those who go first: whoever waits for much is not overtaken for ever
        served = False
        for waiter in sorted(self._waiting, key=lambda waiter: (waiter.member.turn, waiter.number)):
            member = waiter.member
            for leaver in self._leavers:
                if leaver.turn < member.turn:
                    claimed.update(leaver.need)
            if claimed.isdisjoint(member.need) and self._fits(member.need):
                for resource, count in member.need.items():
                    self._lent[resource] = self._lent.get(resource, 0) + count
                self._level = max(self._level, member.turn)
                member.turn += member.weight
                waiter.granted = served = True
            else:
                claimed.update(member.need)
        if served:
            self._waiting = [waiter for waiter in self._waiting if not waiter.granted]
            self._changed.notify_all()

    def _fits(self, need: Mapping[_Resource, int]) -> bool:
        return all(self._lent.get(resource, 0) + count <= self._limits[resource] for resource, count in need.items())

    def _check(self, need: Mapping[_Resource, int]) -> None:
        known = {resource for member in self._members.values() for resource in member.need} | need.keys()
        for name, device in need:
            if any(other == name and (where is None) != (device is None) for other, where in known):
                raise invalid_argument(
                    f'Resource "{name}" is present as both global and device-specific resource in the model '
                    "configuration."
                )
        for resource, count in need.items():
            limit = self._explicit_limit(resource)
            if self._explicit and limit < count:
                raise invalid_argument(
                    f'Resource count for "{resource[0]}" is limited to {limit} which will prevent scheduling of one '
                    f"or more model instances, the minimum required count is {count}"
                )

    def _set_limits(self) -> None:
        most: dict[_Resource, int] = {}
        for member in self._members.values():
            for resource, count in member.need.items():
                most[resource] = max(most.get(resource, 0), count)
        self._limits = {resource: self._explicit_limit(resource) for resource in most} if self._explicit else most

    def _explicit_limit(self, resource: _Resource) -> int:
        name, device = resource
        if device is not None:
            return max(self._explicit.get(name, 0), self._explicit.get(f"{name}:{device}", 0))
        of_any = [count for key, count in self._explicit.items() if key == name or key.startswith(f"{name}:")]
        return max(of_any, default=0)


class _Limited:
    """An execution that waits for its turn."""

    def __init__(self, execution: Runs, placement: Placement, limiter: RateLimiter) -> None:
        self._execution = execution
        self._placement = placement
        self._limiter = limiter

    def run(self, requests: Sequence[InferRequest]) -> Sequence[Result]:
        with self._limiter.use(self._placement):
            return self._execution.run(requests)


def limited(execution: Runs, placement: Placement, limiter: RateLimiter | None) -> Runs:
    """The execution, waiting for its instance's turn where the limiter lets it wait at all."""
    return _Limited(execution, placement, limiter) if limiter is not None and limiter.needs(placement) else execution


def _need(placement: Placement) -> dict[_Resource, int]:
    device = int(placement.device.partition(":")[2] or 0)
    need: dict[_Resource, int] = {}
    for name, is_global, count in placement.group.resources:
        need[name, None if is_global else device] = count
    return need
