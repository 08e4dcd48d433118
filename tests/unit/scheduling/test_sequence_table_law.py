import threading
from math import inf

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.scheduling.sequence_slots import Lane, LiveSequence, SlotPool
from nextact_server.inference.scheduling.sequence_table import SequenceTable

_ACTIONS = st.one_of(
    st.tuples(
        st.just("submit"), st.integers(1, 4), st.sampled_from(["", "", "start", "end", "start end"]), st.booleans()
    ),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("take"), st.integers(0, 1)),
    st.tuples(st.just("settle"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.floats(0, 3)),
)


class _Book:
    """A table without threads, and what became of each request."""

    def __init__(self, slots: int) -> None:
        lock = threading.Lock()
        self.lanes = [Lane(0, lock), Lane(1, lock)]
        self.slots = slots
        self.alarm = inf
        self.table = SequenceTable(
            "m", SlotPool(self.lanes, slots), idle_s=2.0, iterative=False, unfit=lambda id: None, alarm=self._alarm
        )
        self.now = 0.0
        self.waiting: dict[InferRequest, LiveSequence] = {}
        self.running: list[list[LiveSequence]] = [[], []]
        self.order: list[InferRequest] = []

    def _alarm(self, moment: float) -> None:
        self.alarm = min(self.alarm, moment)

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None: ...

    def submit(self, id: int, how: str, limited: bool) -> None:
        request = InferRequest(
            {"IN": np.zeros(1)},
            self,
            correlation_id=id,
            sequence_start="start" in how,
            sequence_end="end" in how,
            timeout_us=1_000_000 if limited else 0,
        )
        self.order.append(request)
        found = self.table.admit(request, self.now)
        if isinstance(found, LiveSequence):
            self.waiting[request] = found

    def cancel(self, at: int) -> None:
        if at < len(self.order) and self.order[at] in self.waiting:
            request = self.order[at]
            lost = [other for other, _ in self.table.withdraw(self.waiting[request], request, self.now)]
            assert lost[0] is request
            for other in lost:
                del self.waiting[other]

    def take(self, lane: int) -> None:
        if not self.running[lane]:
            ready = self.lanes[lane].ready
            taken = list(ready)
            ready.clear()
            for sequence in taken:
                sequence.busy = True
                del self.waiting[sequence.waiting.popleft()]
            self.table.waiting -= len(taken)
            self.running[lane] = taken

    def settle(self, lane: int) -> None:
        for sequence in self.running[lane]:
            self.table.settle(sequence, self.now)
        self.running[lane] = []

    def wait(self, seconds: float) -> None:
        self.now += seconds
        refused, self.alarm = self.table.expire(self.now)
        for request, _ in refused:
            del self.waiting[request]

    def check(self) -> None:
        """Nobody is ready twice, or while running, or in someone else's slot, and none is forgotten."""
        assert self.table.waiting == len(self.waiting)
        for lane, running in zip(self.lanes, self.running, strict=True):
            ready = list(lane.ready)
            assert len({sequence.row for sequence in ready + running}) == len(ready) + len(running)
            for sequence in ready:
                assert sequence.lane is lane
                assert sequence.waiting
                assert not sequence.busy
                assert sequence.row < self.slots


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3), st.lists(_ACTIONS, max_size=60))
def test_whatever_happens_no_slot_is_shared_or_lost_and_no_request_forgotten(slots: int, actions: list[tuple]) -> None:
    book = _Book(slots)
    for name, *arguments in actions:
        getattr(book, name)(*arguments)
        book.check()
    for _ in range(500):  # whatever is left runs, ends or expires
        for lane in (0, 1):
            book.settle(lane)
            book.take(lane)
        if not any(book.running) and not any(lane.ready for lane in book.lanes):
            if book.alarm == inf:
                break
            book.wait(max(0.0, book.alarm - book.now))
        book.check()
    assert not book.waiting
    for id in range(slots * 2):  # every slot can be had again
        book.submit(1000 + id, "start end", False)
    assert sum(len(lane.ready) for lane in book.lanes) == slots * 2
