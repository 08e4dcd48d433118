"""The journal: groups become durable in order, and whoever asks is told the truth about those on their way."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import pytest

from nextact_server.events.hashing import hash_strings
from nextact_server.sequence.journal import Journal, StoreUnavailable, when_durable
from nextact_server.storage.faulty import FaultyStore
from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import (
    ACCEPTED,
    APPLIED_BIT,
    HISTORY_SCHEMA,
    LATE,
    NO_TIME,
    CommitGroup,
    Erasure,
    EventRows,
)


def keys(*names: str) -> np.ndarray:
    return hash_strings(pa.array(names, pa.string()))


def group(sequence: int, *messages: str, status: int = ACCEPTED, applied: bool = True) -> CommitGroup:
    n = len(messages)
    rows = EventRows(
        user=np.zeros(n, np.int64),
        user_key=keys(*["u"] * n),
        message_key=keys(*messages),
        status=np.full(n, status, np.int8),
        applied=np.full(n, applied),
        event_time_us=np.zeros(n, np.int64),
        effective_time_us=np.zeros(n, np.int64),
        gap_us=np.full(n, -1),
        sent_at_us=np.full(n, NO_TIME),
        received_us=np.zeros(n, np.int64),
        item_key=np.zeros((n, 2), np.uint64),
        has_item=np.zeros(n, np.bool_),
        action_code=np.zeros(n, np.int32),
        content_hash=np.zeros((n, 16), np.uint8),
        columns=pa.RecordBatch.from_arrays(
            [pa.nulls(n, field.type) for field in HISTORY_SCHEMA], schema=HISTORY_SCHEMA
        ),
    )
    return CommitGroup(sequence, events=rows)


def suppression(sequence: int, user: str) -> CommitGroup:
    low, high = keys(user)[0].tolist()
    return CommitGroup(sequence, erased=(Erasure(0, (low, high), suppress=True),))


class Desk:
    """A journal over a store that waits and fails on demand, with what it reported."""

    def __init__(self) -> None:
        self.store = FaultyStore(MemoryStore())
        self.health: list[bool] = []
        self.recovered: list[int] = []
        self.journal = Journal(self.store, self.health.append)
        self.journal.recover = self.recovered.append

    def status(self, *messages: str) -> list[int]:
        return self.journal.message_status(keys(*messages)).tolist()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_group_that_is_durable_at_once_leaves_nothing_pending(desk: Desk) -> None:
    assert desk.journal.commit(group(1, "a")).result() is None
    assert (desk.journal.sequence, desk.journal.durable) == (1, 1)
    assert desk.status("a", "b") == [ACCEPTED | APPLIED_BIT, 0]


def test_messages_on_their_way_are_known_with_their_outcome(desk: Desk) -> None:
    desk.store.hold()
    desk.journal.commit(group(1, "a", status=LATE, applied=False))
    desk.journal.commit(group(2, "b"))
    assert desk.status("a", "b", "c") == [LATE, ACCEPTED | APPLIED_BIT, 0]
    desk.store.release(1)
    desk.journal.settle()
    assert desk.status("a", "b", "c") == [LATE, ACCEPTED | APPLIED_BIT, 0]


def test_durable_follows_the_store_though_the_newest_group_is_always_on_its_way(desk: Desk) -> None:
    desk.store.hold()
    for sequence in range(1, 20):
        desk.journal.commit(group(sequence, f"m{sequence}"))
        if sequence > 2:
            desk.store.release(1)
        desk.journal.settle()
        assert desk.journal.durable == max(0, sequence - 2)
    assert desk.status("m1", "m19", "m20") == [ACCEPTED | APPLIED_BIT, ACCEPTED | APPLIED_BIT, 0]


def test_groups_without_events_count_too(desk: Desk) -> None:
    desk.store.hold()
    desk.journal.commit(group(1, "a"))
    desk.journal.commit(CommitGroup(2))
    assert not desk.journal.last.done()
    desk.store.release()
    desk.journal.settle()
    assert desk.journal.durable == 2
    assert desk.journal.last.done()


def test_after_a_failure_everything_behind_it_is_forgotten_and_the_store_reopened(desk: Desk) -> None:
    desk.journal.commit(group(1, "a"))
    desk.store.hold()
    desk.store.fail_commit(2)
    kept, failed, behind = (desk.journal.commit(group(at, f"m{at}")) for at in (2, 3, 4))
    desk.store.release()
    assert kept.exception() is None
    assert failed.exception() is not None
    assert behind.exception() is not None
    assert desk.health == [False]
    desk.journal.settle()
    assert desk.recovered == [2], "recovered from the last durable group, not from an older one"
    assert desk.health == [False, True]
    assert desk.status("a", "m2", "m3", "m4") == [ACCEPTED | APPLIED_BIT] * 2 + [0, 0]
    assert desk.journal.last.done()
    assert desk.journal.commit(group(desk.journal.sequence + 1, "m3")).exception() is None


def test_the_failure_of_a_group_without_events_is_a_failure_too(desk: Desk) -> None:
    desk.store.fail_commit(1)
    desk.journal.commit(CommitGroup(1))
    desk.journal.settle()
    assert desk.recovered == [0]
    assert desk.health == [False, True]


def test_until_the_store_can_be_reopened_every_settling_is_refused(desk: Desk) -> None:
    desk.store.fail_commit(1)
    desk.journal.commit(group(1, "a"))
    desk.store.fail_reopen()
    desk.store.fail_reopen()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="cannot be reopened yet"):
            desk.journal.settle()
    assert desk.recovered == []
    desk.journal.settle()
    assert desk.recovered == [0]
    assert desk.health == [False, True]


def test_what_is_still_held_at_a_reopening_does_not_fail_the_journal_again(desk: Desk) -> None:
    desk.store.fail_commit(1)
    desk.journal.commit(group(1, "a"))
    desk.store.hold()
    desk.journal.settle()
    desk.journal.commit(group(2, "b"))
    desk.journal.settle()
    assert desk.recovered == [0]
    desk.store.release()
    desk.journal.settle()
    assert desk.journal.durable == 2


class ByHand:
    """A store whose commits are completed by the test."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []
        self.reopened = 0

    def commit(self, group: CommitGroup) -> "Future[None]":
        self.futures.append(Future())
        return self.futures[-1]

    def reopen(self) -> None:
        self.reopened += 1


def test_a_failure_is_seen_even_before_its_own_callback_has_run() -> None:
    store = ByHand()
    journal = Journal(store, lambda serving: None)
    recovered: list[int] = []
    journal.recover = recovered.append
    journal.commit(group(1, "a"))
    # A future is done, and its waiters go on, a moment before its callbacks run.
    settled = threading.Event()
    done = threading.Event()

    def while_callbacks_run(_: "Future[None]") -> None:
        done.set()
        settled.wait(10)

    journal.last._done_callbacks.insert(0, while_callbacks_run)
    failing = threading.Thread(target=lambda: store.futures[0].set_exception(OSError("disk full")))
    failing.start()
    assert done.wait(10)
    journal.settle()
    settled.set()
    failing.join()
    journal.settle()
    assert recovered == [0]
    assert store.reopened == 1, "the callback that came late does not fail the journal again"


def test_a_group_from_before_the_reopening_that_fails_late_fails_nothing_new() -> None:
    store = ByHand()
    health: list[bool] = []
    journal = Journal(store, health.append)
    journal.commit(group(1, "a"))
    journal.commit(group(2, "b"))
    store.futures[0].set_exception(OSError("disk full"))
    journal.settle()
    store.futures[1].set_exception(OSError("disk full"))
    journal.settle()
    assert store.reopened == 1
    assert health == [False, True]


def test_users_whose_suppression_is_on_its_way_are_suppressed_until_it_fails(desk: Desk) -> None:
    desk.store.hold()
    desk.journal.commit(suppression(1, "a"))
    assert desk.journal.suppressed(keys("a", "b")).tolist() == [True, False]
    desk.store.release()
    desk.journal.settle()
    assert desk.journal.suppressed(keys("a", "b")).tolist() == [True, False]
    desk.store.fail_commit(1)
    desk.journal.commit(suppression(2, "b"))
    assert desk.journal.suppressed(keys("a", "b")).tolist() == [True, True]
    desk.journal.settle()
    assert desk.journal.suppressed(keys("a", "b")).tolist() == [True, False]


def test_a_value_is_told_once_it_is_durable_and_never_if_it_is_not() -> None:
    kept: Future[None] = Future()
    answer = when_durable(kept, 7)
    assert not answer.done()
    kept.set_result(None)
    assert answer.result(0) == 7
    lost: Future[None] = Future()
    answer = when_durable(lost, 7)
    lost.set_exception(OSError("disk full"))
    with pytest.raises(StoreUnavailable, match="disk full; send it again"):
        answer.result(0)


@pytest.mark.parametrize("error", [None, OSError("disk full")])
def test_who_no_longer_waits_for_a_value_disturbs_nobody(
    error: OSError | None, caplog: pytest.LogCaptureFixture
) -> None:
    durable: Future[None] = Future()
    assert when_durable(durable, 7).cancel()
    if error is None:
        durable.set_result(None)
    else:
        durable.set_exception(error)
    assert caplog.records == [], "what a callback raises is only logged"


class Overtaken(Future[None]):
    """A future that is asked for its error at the very moment at which something else happens."""

    meanwhile: Callable[[], None] | None = None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return super().exception(timeout)


def test_a_failure_that_the_reopening_overtakes_does_not_fail_what_comes_after() -> None:
    store = ByHand()
    health: list[bool] = []
    journal = Journal(store, health.append)
    journal.commit(group(1, "a"))
    late = Overtaken()
    store.commit = lambda group: late  # type: ignore[method-assign]
    journal.commit(group(2, "b"))

    def fail_and_reopen() -> None:
        store.futures[0].set_exception(OSError("disk full"))
        journal.settle()

    late.meanwhile = fail_and_reopen
    late.set_exception(OSError("disk full"))
    journal.settle()
    assert store.reopened == 1
    assert health == [False, True]
