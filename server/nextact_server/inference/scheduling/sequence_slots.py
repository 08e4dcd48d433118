"""A sequence that is under way, the lane of the instance it is bound to, and the batch slots of all instances."""

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf

from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.scheduling.sequence_errors import CorrelationId
from nextact_server.inference.tensors import Tensor

__all__ = ["Lane", "LiveSequence", "SlotPool"]


class LiveSequence:
    """The requests of one sequence that wait, in order, and what is kept for it. The scheduler's lock guards it.

    Attributes:
        id: its correlation id.
        waiting: requests that were not run yet.
        lane, row: the instance and the batch slot it is bound to; None while it waits for one.
        busy: one of its requests is being run; then `state` and `told_id` belong to the worker that runs it.
        ended: it takes nothing more, and is over when nothing of it waits or runs.
        ready_since: when the first of `waiting` could have been run.
        expires: the earliest timeout of `waiting`, which counts while it has no slot.
        heir: the sequence that was started under the same id after this one ended; it begins when this one is over.
        told_id: the correlation id as its control input's tensor, where the model has one.
        state: its implicit state by input name; None before it has any.
    """

    __slots__ = (
        "busy", "ended", "expires", "heir", "id", "lane", "ready_since", "row", "state", "told_id", "waiting",
    )  # fmt: skip

    def __init__(self, id: CorrelationId) -> None:
        self.id = id
        self.waiting: deque[InferRequest] = deque()
        self.lane: Lane | None = None
        self.row = 0
        self.busy = False
        self.ended = False
        self.ready_since = 0.0
        self.expires = inf
        self.heir: LiveSequence | None = None
        self.told_id: Tensor | None = None
        self.state: dict[str, Tensor] | None = None


class Lane:
    """One instance's sequences that have a request to run now, the longest ready first. The lock guards it."""

    __slots__ = ("arrived", "index", "parked", "ready")

    def __init__(self, index: int, lock: threading.Lock) -> None:
        self.index = index
        self.ready: deque[LiveSequence] = deque()
        self.arrived = threading.Condition(lock)
        self.parked = False
        """The instance's worker waits on `arrived`, and nobody woke it yet."""

    def push(self, sequence: LiveSequence, now: float) -> None:
        """Let a sequence run its next request."""
        sequence.ready_since = now
        self.ready.append(sequence)
        self.wake()

    def wake(self) -> None:
        """Let the worker look again."""
        if self.parked:
            self.parked = False
            self.arrived.notify()


class SlotPool:
    """The slots of all instances, lowest row first so that batches stay small, and the sequences that wait for one.

    Whoever gets a slot and has requests is ready at once. The lock guards it.
    """

    def __init__(self, lanes: Sequence[Lane], slots: int) -> None:
        self._lanes = lanes
        self._count = slots * len(lanes)
        # Slots are numbered row by row; those from `_unused` on were never used, for there may be billions of them.
        self._unused = 0
        self._free: list[tuple[int, int]] = []
        self._backlog: OrderedDict[LiveSequence, None] = OrderedDict()

    def __contains__(self, sequence: LiveSequence) -> bool:
        """Whether a sequence waits for a slot."""
        return sequence in self._backlog

    def place(self, sequence: LiveSequence, now: float) -> None:
        """Give a sequence a slot, or let it wait for one behind the others."""
        if self._free:
            row, lane = heappop(self._free)
        elif self._unused < self._count:
            row, lane = divmod(self._unused, len(self._lanes))
            self._unused += 1
        else:
            self._backlog[sequence] = None
            return
        self._seat(sequence, row, self._lanes[lane], now)

    def release(self, sequence: LiveSequence, now: float) -> None:
        """Take a sequence's slot and give it to who waits longest."""
        lane = sequence.lane
        if lane is None:
            return
        sequence.lane = None
        if self._backlog:
            following, _ = self._backlog.popitem(last=False)
            self._seat(following, sequence.row, lane, now)
        else:
            heappush(self._free, (sequence.row, lane.index))

    def leave(self, sequence: LiveSequence) -> None:
        """Let a sequence wait for a slot no more."""
        del self._backlog[sequence]

    def clear(self) -> None:
        """Let nobody wait, and nobody be ready."""
        self._backlog.clear()
        for lane in self._lanes:
            lane.ready.clear()

    def _seat(self, sequence: LiveSequence, row: int, lane: Lane, now: float) -> None:
        sequence.row, sequence.lane = row, lane
        if sequence.waiting:
            lane.push(sequence, now)
