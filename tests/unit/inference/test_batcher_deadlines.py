"""An item whose deadline passes is told so at that moment, and is never computed."""

import threading

import pytest
from batcher_harness import TIMEOUT, Model, answers, bench
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.inference.batcher import DeadlineExpired
from nextact_server.inference.deadlines import Deadlines


def test_a_deadline_is_noticed_at_its_moment_while_the_model_is_busy():
    with bench(cost=len) as b:
        b.occupy("x")
        start = b.clock.monotonic()
        expiring = b.batcher.submit("aaa", deadline=start + 0.05)
        patient = b.batcher.submit("bb", deadline=start + 0.5)
        b.clock.wait_for_parked(start + 0.05)
        b.clock.advance(0.049)
        b.clock.wait_for_parked(start + 0.05)
        assert not expiring.done()
        b.clock.advance(0.001 + 1e-9)
        with pytest.raises(DeadlineExpired, match=r"0\.050 s in the queue of toy"):
            expiring.result(TIMEOUT)
        assert b.batcher.queued_cost == 2
        assert b.seen.expired_items == 1
        b.model.release()
        assert patient.result(TIMEOUT) == ("answer", "bb")
        assert b.model.batches == [["x"], ["bb"]]


def test_an_earlier_deadline_that_arrives_later_moves_the_timer():
    with bench() as b:
        b.occupy()
        start = b.clock.monotonic()
        far = b.batcher.submit("far", deadline=start + 10)
        b.clock.wait_for_parked(start + 10)
        near = b.batcher.submit("near", deadline=start + 1)
        b.clock.wait_for_parked(start + 1)
        b.clock.advance(1)
        assert isinstance(near.exception(TIMEOUT), DeadlineExpired)
        assert not far.done()


def test_a_deadline_that_passed_before_the_call_is_never_queued():
    with bench() as b:
        now = b.clock.monotonic()
        for deadline in (now, now - 5, float("-inf"), float("nan")):
            assert isinstance(b.batcher.submit("late", deadline=deadline).exception(TIMEOUT), DeadlineExpired)
        assert (b.model.batches, b.seen.expired_items) == ([], 4)


def test_a_deadline_does_not_touch_what_is_being_computed():
    with bench() as b:
        b.model.hold()
        future = b.batcher.submit("a", deadline=b.clock.monotonic() + 1)
        b.model.wait_entered()
        b.clock.advance(5)
        b.model.release()
        assert future.result(TIMEOUT) == ("answer", "a")


def test_a_worker_that_frees_up_before_the_timer_notices_does_not_compute_it(monkeypatch):
    with bench() as b:
        monkeypatch.setattr(b.batcher._line, "_start_timer", lambda: None)
        b.occupy()
        late = b.batcher.submit("late", deadline=b.clock.monotonic() + 1)
        good = b.batcher.submit("good")
        b.clock.advance(1)
        b.model.release()
        assert isinstance(late.exception(TIMEOUT), DeadlineExpired)
        assert good.result(TIMEOUT) == ("answer", "good")
        assert b.model.batches == [["first"], ["good"]]


def test_a_deadline_without_end_never_passes():
    with bench() as b:
        assert b.batcher.submit("a", deadline=float("inf")).result(TIMEOUT) == ("answer", "a")


def test_all_deadlines_share_one_thread_that_only_the_first_starts():
    with bench() as b:
        b.occupy()
        timers = lambda: [thread for thread in threading.enumerate() if thread.name == "deadline-toy"]  # noqa: E731
        before = len(timers())
        b.batcher.submit("no deadline")
        assert len(timers()) == before
        for n in range(20):
            b.batcher.submit(n, deadline=b.clock.monotonic() + 1 + n)
        assert len(timers()) == before + 1


def test_a_timer_that_crashes_is_replaced_by_the_next_deadline(monkeypatch):
    with bench() as b:
        b.occupy()
        overdue, faults = b.batcher._line._overdue, [RuntimeError("fault")]

        def faulty(now):
            if faults:
                raise faults.pop()
            return overdue(now)

        monkeypatch.setattr(b.batcher._line, "_overdue", faulty)
        first = b.batcher.submit(1, deadline=b.clock.monotonic() + 1)
        crashed = [thread for thread in threading.enumerate() if thread.name == "deadline-toy"]
        for thread in crashed:
            thread.join(TIMEOUT)
        second = b.batcher.submit(2, deadline=b.clock.monotonic() + 1)
        b.clock.advance(1)
        for future in (first, second):
            assert isinstance(future.exception(TIMEOUT), DeadlineExpired)


def test_expired_items_do_not_disturb_a_batch_of_others():
    model = Model()
    with bench(model) as b:
        b.occupy()
        start = b.clock.monotonic()
        futures = [b.batcher.submit(n, deadline=start + 1 if n % 2 else start + 100) for n in range(8)]
        b.clock.advance(1)
        for n in (1, 3, 5, 7):
            assert isinstance(futures[n].exception(TIMEOUT), DeadlineExpired)
        model.release()
        assert answers(futures[::2]) == [("answer", n) for n in (0, 2, 4, 6)]
        assert model.batches[1:] == [[0, 2, 4, 6]]


def test_far_deadlines_of_answered_items_do_not_pile_up():
    waiting = set()
    deadlines = Deadlines(waiting.__contains__)
    for number in range(10_000):
        waiting.add(number)
        deadlines.add(1e6 + number, number)
        waiting.discard(number - 10)
    assert len(deadlines) < 200
    assert deadlines.earliest() == 1e6 + 9_990


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=300), st.floats(0, 100))
def test_what_is_due_comes_earliest_first_and_the_rest_stays(entries, now):
    waiting = {number for number, (_, waits) in enumerate(entries) if waits}
    deadlines = Deadlines(waiting.__contains__)
    for number, (moment, _) in enumerate(entries):
        deadlines.add(moment, number)
    due = [number for number in deadlines.pop_due(now) if number in waiting]
    assert sorted(due) == sorted(n for n in waiting if entries[n][0] <= now)
    assert [entries[n][0] for n in due] == sorted(entries[n][0] for n in due)
    assert deadlines.earliest() == min((entries[n][0] for n in waiting if entries[n][0] > now), default=None)
