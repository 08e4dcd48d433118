"""The law of the batcher: whatever comes in whatever order, batched == unbatched, and nobody is left without answer."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from batcher_harness import TIMEOUT, Recorder
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.inference.batcher import (
    Batcher,
    DeadlineExpired,
    ManualClock,
    QueueFull,
)

MAX_COST, MAX_QUEUE_COST = 6, 24


@dataclass(frozen=True)
class Item:
    name: int
    rows: tuple[int, ...]
    kind: str = "good"  # or "raises", "returns_error"


def unbatched(item: Item) -> Any:
    if item.kind == "raises":
        raise ValueError(f"item {item.name}")
    return KeyError(item.name) if item.kind == "returns_error" else tuple(row * row + item.name for row in item.rows)


def cut(item: Item, most: int) -> list[Item]:
    return [Item(item.name, item.rows[at : at + most], item.kind) for at in range(0, len(item.rows), most)]


class SteppedModel:
    """Computes one batch per permit; a test hands out permits between what else it does."""

    def __init__(self) -> None:
        self.calls: list[list[Item]] = []
        self.permits = threading.Semaphore(0)
        self.free = False

    def __call__(self, items: Any) -> list[Any]:
        self.calls.append(list(items))
        if not self.free:
            assert self.permits.acquire(timeout=TIMEOUT)
        return [unbatched(item) for item in items]

    def let_all(self) -> None:
        self.free = True
        self.permits.release(1000)


steps = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 14), st.sampled_from(["good"] * 6 + ["raises", "returns_error"])),
    st.tuples(st.just("deadline"), st.integers(1, 7), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 40), st.just(0)),
    st.tuples(st.just("compute"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("advance"), st.integers(1, 3), st.just(0)),
)


@given(
    st.lists(steps, max_size=40),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_batched_equals_unbatched_under_any_interleaving(script, delay_s, ordered, splits, padded, drain):
    model, clock, seen = SteppedModel(), ManualClock(), Recorder()
    batcher: Batcher[Item, Any] = Batcher(
        "law",
        model,
        max_cost=MAX_COST,
        max_queue_cost=MAX_QUEUE_COST,
        max_queue_delay_s=delay_s,
        cost=lambda item: len(item.rows),
        order=(lambda item: len(item.rows)) if ordered else None,
        padded=padded,
        split=cut if splits else None,
        join=(lambda item, parts: tuple(row for part in parts for row in part)) if splits else None,
        clock=clock,
        observer=seen,
    )
    accepted: list[tuple[Item, Future[Any]]] = []
    withdrawn: set[int] = set()
    refusals: list[QueueFull] = []
    try:
        for name, (step, number, extra) in enumerate(script):
            if step in ("submit", "deadline"):
                item = Item(name, tuple(range(number)), extra if step == "submit" else "good")
                try:
                    deadline = clock.monotonic() + extra if step == "deadline" else None
                    accepted.append((item, batcher.submit(item, deadline=deadline)))
                except QueueFull as refusal:
                    refusals.append(refusal)
            elif step == "cancel" and accepted:
                item, future = accepted[number % len(accepted)]
                if not future.done() and future.cancel():
                    withdrawn.add(item.name)
            elif step == "compute":
                model.permits.release(number)
            elif step == "advance":
                clock.advance(number)
            assert 0 <= batcher.queued_cost <= MAX_QUEUE_COST
        model.let_all()
    finally:
        model.let_all()
        batcher.close(drain=drain)

    assert batcher.queued_cost == 0
    expired = 0
    for item, future in accepted:
        assert future.done()
        if item.name in withdrawn:
            assert future.cancelled()
            continue
        error = future.exception()
        if isinstance(error, DeadlineExpired):
            expired += 1
        elif not (error is not None and str(error) == "batcher law is closed" and not drain):
            check_same_as_unbatched(item, future)
    check_calls(model.calls, withdrawn, splits=splits, ordered=ordered, padded=padded)
    assert seen.expired_items >= expired
    assert sum(report.runs for report in seen.reports) == len(model.calls)
    assert all(refusal.queued + refusal.cost > MAX_QUEUE_COST for refusal in refusals)
    assert seen.rejected_costs == [refusal.cost for refusal in refusals]


def check_same_as_unbatched(item: Item, future: Future[Any]) -> None:
    try:
        wanted = unbatched(item)
    except ValueError as error:
        wanted = error
    if isinstance(wanted, Exception):
        got = future.exception()
        assert (type(got), str(got)) == (type(wanted), str(wanted))
    else:
        assert future.result() == wanted


def check_calls(calls: list[list[Item]], withdrawn: set[int], *, splits: bool, ordered: bool, padded: bool) -> None:
    first_seen: dict[Item, int] = {}
    for call, items in enumerate(calls):
        costs = [len(item.rows) for item in items]
        total = max(costs) * len(costs) if padded else sum(costs)
        assert total <= MAX_COST or (len(items) == 1 and not splits)
        for item in items:
            first_seen.setdefault(item, call)
    if not splits:
        assert not withdrawn & {item.name for item in first_seen}, "a cancelled item was computed"
    if not ordered:
        assert [item.name for item in first_seen] == sorted(item.name for item in first_seen)


@dataclass
class Caller:
    """One thread's worth of requests: every seventh is cancelled, and a full queue is waited for."""

    batcher: Batcher[int, int]
    first: int
    count: int

    def __post_init__(self) -> None:
        self.sent: list[tuple[int, Future[int], bool]] = []
        self.thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        for n in range(self.first, self.first + self.count):
            future = self._submit(n)
            self.sent.append((n, future, n % 7 == 3 and future.cancel()))

    def _submit(self, n: int) -> Future[int]:
        while True:
            try:
                return self.batcher.submit(n, deadline=time.monotonic() + 60)
            except QueueFull:
                self.batcher.room().result(TIMEOUT)


def increment_all(items: Any) -> list[int]:
    if any(n % 101 == 100 for n in items):
        raise ValueError("one of these is bad")
    return [n + 1 for n in items]


def test_nobody_is_left_without_answer_among_threads_that_submit_and_cancel():
    with Batcher("storm", increment_all, max_cost=16, max_queue_cost=32, order=lambda n: n % 10) as batcher:
        callers = [Caller(batcher, which * 1000, 300) for which in range(4)]
        for caller in callers:
            caller.thread.start()
        for caller in callers:
            caller.thread.join(60)
    sent = [entry for caller in callers for entry in caller.sent]
    assert len(sent) == 4 * 300
    for n, future, cancelled in sent:
        assert future.done()
        assert future.cancelled() == cancelled
        if not cancelled and n % 101 == 100:
            assert isinstance(future.exception(), ValueError)
        elif not cancelled:
            assert future.result() == n + 1
