"""Which sequences run next on an instance: Triton's two strategies."""

from collections import deque
from collections.abc import Hashable
from typing import Protocol

from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching
from nextact_server.inference.scheduling.sequence_slots import LiveSequence
from nextact_server.inference.scheduling.sequence_state import ImplicitState

__all__ = ["Direct", "Likeness", "Oldest", "Strategy"]


class Likeness:
    """Tells which requests can share a batch: by the shapes of variable inputs and the presence of optional ones."""

    def __init__(self, spec: ModelSpec, states: ImplicitState) -> None:
        self._shapes = [i.name for i in spec.inputs if not i.ragged and (i.optional or min(i.dims, default=0) < 0)]
        self._presence = [i.name for i in spec.inputs if i.ragged and i.optional]
        self._state_shapes = states.variable
        self._states = states

    def __bool__(self) -> bool:
        return bool(self._shapes or self._presence or self._state_shapes)

    def of(self, sequence: LiveSequence) -> Hashable:
        """The kind of the request that is next in a sequence: equal kinds can share a batch."""
        request = sequence.waiting[0]
        inputs = request.inputs
        state = None if request.sequence_start else sequence.state
        return (
            tuple([inputs[name].shape if name in inputs else None for name in self._shapes]),
            tuple([name in inputs for name in self._presence]),
            tuple([self._states.shape(name, state) for name in self._state_shapes]),
        )


class Strategy(Protocol):
    """Takes a batch from the sequences of an instance that are ready. The scheduler's lock is held."""

    def take(self, ready: deque[LiveSequence], now: float, *, hurry: bool) -> tuple[list[LiveSequence], float | None]:
        """Take out the sequences whose first requests make the batch; if none yet, tell until when to wait for more.

        `ready` is not empty, the longest ready first. With `hurry` nothing waits for more.
        """


class Direct:
    """A sequence keeps its batch slot: all that are ready run, each in its row.

    They wait up to `max_queue_delay` while less than `minimum_slot_utilization` of the slots is ready. Requests of
    another shape than that of the longest ready are left for the next batch, as they cannot be in this one.
    """

    def __init__(self, spec: ModelSpec, batching: SequenceBatching, likeness: Likeness) -> None:
        self._slots = max(1, spec.max_batch_size)
        self._delay_s = batching.max_queue_delay_us / 1e6 if batching.minimum_slot_utilization > 0 else 0.0
        self._enough = batching.minimum_slot_utilization * self._slots
        self._likeness = likeness if self._slots > 1 and likeness else None

    def take(self, ready: deque[LiveSequence], now: float, *, hurry: bool) -> tuple[list[LiveSequence], float | None]:
        """See `Strategy`."""
        if self._delay_s and not hurry and len(ready) < self._enough:
            until = ready[0].ready_since + self._delay_s
            if now < until:
                return [], until
        taken = list(ready)
        ready.clear()
        if self._likeness is not None and len(taken) > 1:
            kinds = [self._likeness.of(sequence) for sequence in taken]
            first = kinds[0]
            ready.extend([s for s, kind in zip(taken, kinds, strict=True) if kind != first])
            taken = [s for s, kind in zip(taken, kinds, strict=True) if kind == first]
        return taken, None


class Oldest:
    """Those ready longest make a dynamic batch, one request of each.

    A preferred size leaves as soon as it is there, the largest that is; everything else leaves when the longest ready
    waited for `max_queue_delay`, at once without one. A batch ends before a request of another shape.
    """

    def __init__(self, spec: ModelSpec, batching: SequenceBatching, likeness: Likeness) -> None:
        self._most = max(1, spec.max_batch_size)
        self._delay_s = batching.max_queue_delay_us / 1e6
        self._preferred = sorted(batching.preferred_batch_size, reverse=True)
        self._likeness = likeness if self._most > 1 and likeness else None

    def take(self, ready: deque[LiveSequence], now: float, *, hurry: bool) -> tuple[list[LiveSequence], float | None]:
        """See `Strategy`."""
        count, complete = self._together(ready)
        until = ready[0].ready_since + self._delay_s
        if now < until or not self._delay_s:
            preferred = next((size for size in self._preferred if size <= count), 0)
            if preferred:
                count, complete = preferred, True
            elif self._delay_s and not complete and not hurry:
                return [], until
        return [ready.popleft() for _ in range(count)], None

    def _together(self, ready: deque[LiveSequence]) -> tuple[int, bool]:
        """How many of the first could leave as one batch, and whether it cannot grow."""
        count = min(len(ready), self._most)
        if self._likeness is not None and count > 1:
            kind = self._likeness.of(ready[0])
            for at in range(1, count):
                if self._likeness.of(ready[at]) != kind:
                    return at, True
        return count, count == self._most
