"""The clocks keep the promise the batcher builds on: a wait ends by a notify or by its moment, never later."""

import threading

import pytest
from batcher_harness import TIMEOUT

from nextact_server.inference.clock import Clock, ManualClock, MonotonicClock


@pytest.mark.parametrize("clock", [ManualClock(), MonotonicClock()])
def test_a_wait_for_a_moment_that_passed_ends_at_once(clock: Clock):
    condition = threading.Condition()
    with condition:
        clock.wait(condition, clock.monotonic())
        clock.wait(condition, float("-inf"))


@pytest.mark.parametrize("until", [None, float("inf")])
@pytest.mark.parametrize("clock", [ManualClock(), MonotonicClock()])
def test_a_wait_ends_by_a_notify(clock: Clock, until):
    condition, ready, told, ended = threading.Condition(), threading.Event(), [], []

    def waiter():
        with condition:
            ready.set()
            while not told:
                clock.wait(condition, until)
        ended.append(True)

    thread = threading.Thread(target=waiter, daemon=True)
    thread.start()
    assert ready.wait(TIMEOUT)
    with condition:
        told.append(True)
        condition.notify_all()
    thread.join(TIMEOUT)
    assert ended == [True]


def test_the_system_clock_ends_a_wait_by_itself():
    condition, clock = threading.Condition(), MonotonicClock()
    until = clock.monotonic() + 0.001
    with condition:
        while clock.monotonic() < until:
            clock.wait(condition, until)


def test_nobody_parked_is_told_after_the_timeout():
    with pytest.raises(TimeoutError, match="no thread waits until 5"):
        ManualClock().wait_for_parked(5.0, timeout=0.0)
