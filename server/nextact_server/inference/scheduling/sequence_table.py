"""Which sequences live, which of them have a slot and which wait for one: the book-keeping of the sequence batcher."""

import itertools
from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.scheduling.sequence_errors import (
    CorrelationId,
    backlog_timeout,
    given_up,
    must_have_id,
    must_start,
    start_given_up,
    stopping,
)
from nextact_server.inference.scheduling.sequence_slots import LiveSequence, SlotPool

__all__ = ["Refusal", "SequenceTable"]

Refusal = tuple[InferRequest, InferError]
"""A request that does not wait any more, and what to answer it."""

_UINT64 = (1 << 64) - 1


class SequenceTable:
    """A sequence has a slot, or waits for one, or is the heir of one that ended under its id and is not over yet.

    Not thread-safe: the scheduler's lock guards every method. Moments are seconds of the scheduler's clock.

    Args:
        model: its name, for errors.
        pool: the slots that sequences run in.
        idle_s: how long a sequence may have nothing that waits or runs.
        iterative: every request is a sequence of its own, over when it is not rescheduled.
        unfit: an error for a correlation id that the model cannot be told.
        alarm: told of a moment at which `expire` may have something to do.
    """

    def __init__(
        self,
        model: str,
        pool: SlotPool,
        *,
        idle_s: float,
        iterative: bool,
        unfit: Callable[[CorrelationId], InferError | None],
        alarm: Callable[[float], None],
    ) -> None:
        self.waiting = 0
        """Requests that were taken and not run yet."""
        self.closed = False
        self.dropping = False
        """Closed without draining: what would wait again is refused."""
        self._model = model
        self._pool = pool
        self._idle_s = idle_s
        self._iterative = iterative
        self._unfit = unfit
        self._alarm = alarm
        self._numbers = itertools.count(1)
        self._all: set[LiveSequence] = set()
        self._live: dict[CorrelationId, LiveSequence] = {}  # the latest of each id: who gets its next request
        self._idle: OrderedDict[LiveSequence, float] = OrderedDict()  # since when, the longest first
        self._timeouts: list[tuple[float, int, LiveSequence]] = []

    def admit(self, request: InferRequest, now: float) -> LiveSequence | InferError:
        """Let a request in; the sequence it waits in, or why it may not."""
        if self.closed:
            return stopping()
        found = self._only(request, now) if self._iterative else self._member(request, now)
        if isinstance(found, InferError):
            return found
        found.waiting.append(request)
        self.waiting += 1
        lane = found.lane
        if lane is None:
            if request.timeout_us > 0:
                self._limit(found, now + request.timeout_us / 1e6)
        elif len(found.waiting) == 1 and not found.busy:
            self._idle.pop(found, None)
            lane.push(found, now)
        return found

    def settle(self, sequence: LiveSequence, now: float) -> None:
        """Note that a request of the sequence was run."""
        sequence.busy = False
        self._go_on(sequence, now)

    def reschedule(self, sequence: LiveSequence, request: InferRequest) -> None:
        """Let a request that was run wait again, before others of its sequence; `settle` is still to be called."""
        sequence.waiting.appendleft(request)
        self.waiting += 1

    def withdraw(self, sequence: LiveSequence, request: InferRequest, now: float) -> list[Refusal]:
        """Take out a request, if it still waits.

        A start takes with it what came after it, up to another start: without it none of that means anything.
        """
        waiting = sequence.waiting
        if request not in waiting:
            return []
        if self._iterative or not request.sequence_start:
            waiting.remove(request)
            self._left(sequence, 1, now)
            return [(request, given_up())]
        requests = list(waiting)
        at = requests.index(request)
        end = next((i for i in range(at + 1, len(requests)) if requests[i].sequence_start), len(requests))
        waiting.clear()
        waiting.extend(requests[:at] + requests[end:])
        sequence.ended = sequence.ended or end == len(requests)
        self._left(sequence, end - at, now)
        behind = [(other, start_given_up(sequence.id)) for other in requests[at + 1 : end]]
        return [(request, given_up()), *behind]

    def expire(self, now: float) -> tuple[list[Refusal], float]:
        """End what is idle or in vain waited for a slot; the requests that lose by it, and when to ask again."""
        refused: list[Refusal] = []
        while self._timeouts and self._timeouts[0][0] <= now:
            _, _, sequence = heappop(self._timeouts)
            if sequence.lane is None and sequence.waiting and sequence.expires <= now:
                refused += [(request, backlog_timeout()) for request in sequence.waiting]
                count = len(sequence.waiting)
                sequence.waiting.clear()
                sequence.ended = True
                self._left(sequence, count, now)
        while self._idle:
            sequence, since = next(iter(self._idle.items()))
            if since + self._idle_s > now:
                break
            del self._idle[sequence]
            self._end(sequence, now)
        after = next(iter(self._idle.values())) + self._idle_s if self._idle else inf
        return refused, min(after, self._timeouts[0][0]) if self._timeouts else after

    def close(self, now: float, *, drain: bool) -> list[Refusal]:
        """Take nothing more; without `drain` also give up what waits. Idle sequences make room for the backlog."""
        self.closed = True
        self.dropping = not drain
        refused: list[Refusal] = []
        if not drain:
            for sequence in self._all:
                refused += [(request, stopping()) for request in sequence.waiting]
                sequence.waiting.clear()
            self._pool.clear()
            self.waiting = 0
        while self._idle:
            self._end(self._idle.popitem()[0], now)
        return refused

    def _member(self, request: InferRequest, now: float) -> LiveSequence | InferError:
        id = request.correlation_id
        sequence = self._live.get(id)
        if sequence is None or sequence.ended:
            if not id:
                return must_have_id(self._model)
            if isinstance(id, int) and id < 0:  # on its way in, Triton reads an int64 as the uint64 of the same bits
                request.correlation_id = id & _UINT64
                return self._member(request, now)
            if not request.sequence_start:
                return must_start(self._model, id)
            predecessor = sequence
            unfit = self._unfit(id)
            if unfit is not None:
                return unfit
            sequence = self._live[id] = LiveSequence(id)
            self._all.add(sequence)
            if predecessor is None:
                self._pool.place(sequence, now)
            else:
                predecessor.heir = sequence
        if request.sequence_end:
            sequence.ended = True
        return sequence

    def _only(self, request: InferRequest, now: float) -> LiveSequence | InferError:
        id = request.correlation_id or next(self._numbers)
        unfit = self._unfit(id)
        if unfit is not None:
            return unfit
        request.correlation_id = id
        request.sequence_start = True
        sequence = LiveSequence(id)
        sequence.ended = True
        self._all.add(sequence)
        self._pool.place(sequence, now)
        return sequence

    def _limit(self, sequence: LiveSequence, moment: float) -> None:
        if moment < sequence.expires:
            sequence.expires = moment
            heappush(self._timeouts, (moment, next(self._numbers), sequence))
            self._alarm(moment)

    def _left(self, sequence: LiveSequence, count: int, now: float) -> None:
        """Requests that waited were taken out of the sequence without being run."""
        self.waiting -= count
        if sequence.waiting or sequence.busy:
            return
        if sequence.lane is not None:
            sequence.lane.ready.remove(sequence)
            self._go_on(sequence, now)
        elif sequence in self._pool:
            self._pool.leave(sequence)
            self._end(sequence, now)
        # Else it is an heir, over before it began: it keeps its id until its turn comes, and is then passed over.

    def _go_on(self, sequence: LiveSequence, now: float) -> None:
        """A seated sequence that neither runs nor is ready: let it run, be idle, or end."""
        if sequence.waiting:
            assert sequence.lane is not None
            sequence.lane.push(sequence, now)
        elif sequence.ended or self.closed:
            self._end(sequence, now)
        else:
            self._idle[sequence] = now
            self._alarm(now + self._idle_s)

    def _end(self, sequence: LiveSequence, now: float) -> None:
        """A sequence of which nothing waits or runs is over: its slot goes to the backlog, its id to its heir."""
        self._forget(sequence)
        self._pool.release(sequence, now)
        heir = sequence.heir
        while heir is not None and not heir.waiting:
            self._forget(heir)
            heir = heir.heir
        if heir is not None:
            self._pool.place(heir, now)

    def _forget(self, sequence: LiveSequence) -> None:
        self._all.discard(sequence)
        if self._live.get(sequence.id) is sequence:
            del self._live[sequence.id]
