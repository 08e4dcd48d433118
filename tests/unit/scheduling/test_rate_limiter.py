"""Instances share resources and take turns across models."""

import threading

import pytest

from nextact_server.inference.clock import ManualClock
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import InstanceGroup, Placement
from nextact_server.inference.rate_limiter import COURTESY_S, RateLimiter, RateLimitMode, limited

TIMEOUT = 10.0
ON = RateLimitMode.EXECUTION_COUNT


def placed(name, *resources, priority=0, device="cpu"):
    return Placement(name, device, InstanceGroup(name, resources=resources, rate_priority=priority))


def limiter_of(*placements, limits=None):
    clock = ManualClock()
    limiter = RateLimiter(limits, mode=ON, clock=clock)
    for placement in placements:
        limiter.register(placement)
    return limiter, clock


class Holder:
    """A thread that holds its turn until it is let go."""

    def __init__(self, limiter, placement):
        self.has = threading.Event()
        self._go = threading.Event()
        self._limiter = limiter
        self._placement = placement
        self.thread = threading.Thread(target=self._hold)
        self.thread.start()

    def _hold(self):
        with self._limiter.use(self._placement):
            self.has.set()
            assert self._go.wait(TIMEOUT)

    def wait(self):
        assert self.has.wait(TIMEOUT)
        return self

    def end(self):
        self._go.set()
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()


def asks(limiter, clock, placement):
    """A holder that has come to wait behind those who hold."""
    before = len(limiter._waiting)
    holder = Holder(limiter, placement)
    with clock._changed:
        assert clock._changed.wait_for(lambda: len(limiter._waiting) > before, TIMEOUT)
    return holder


def test_two_that_need_the_same_resource_never_run_together():
    a, b = placed("a", ("R", False, 1)), placed("b", ("R", False, 1))
    limiter, clock = limiter_of(a, b)
    first = Holder(limiter, a).wait()
    second = asks(limiter, clock, b)
    assert not second.has.is_set()
    first.end()
    clock.advance(COURTESY_S)
    second.wait().end()


def test_explicit_limits_let_as_many_run_as_there_are_resources_for():
    a, b, c = (placed(name, ("R", False, 2)) for name in "abc")
    limiter, clock = limiter_of(a, b, c, limits={"R": 4})
    first, second = Holder(limiter, a).wait(), Holder(limiter, b).wait()
    third = asks(limiter, clock, c)
    second.end()
    clock.advance(COURTESY_S)
    third.wait().end()
    first.end()


def test_the_default_limit_is_what_the_one_that_needs_most_needs():
    small, large = placed("small", ("R", False, 2)), placed("large", ("R", False, 5))
    limiter, clock = limiter_of(small, large)
    first, again = Holder(limiter, small).wait(), Holder(limiter, small).wait()
    whole = asks(limiter, clock, large)
    first.end()
    again.end()
    clock.advance(COURTESY_S)
    whole.wait().end()


def test_who_waits_for_much_is_not_overtaken_by_those_who_need_little():
    small, large = placed("small", ("R", False, 1)), placed("large", ("R", False, 2))
    limiter, clock = limiter_of(small, large)
    first = Holder(limiter, small).wait()
    whole = asks(limiter, clock, large)
    later = asks(limiter, clock, small)  # it would fit beside the first
    assert not later.has.is_set()
    first.end()
    clock.advance(COURTESY_S)
    whole.wait().end()
    later.wait().end()


def test_those_who_need_other_resources_are_not_held_up():
    a, b, other = placed("a", ("R", False, 1)), placed("b", ("R", False, 1)), placed("c", ("S", False, 1))
    limiter, clock = limiter_of(a, b, other)
    first = Holder(limiter, a).wait()
    second = asks(limiter, clock, b)
    Holder(limiter, other).wait().end()
    first.end()
    clock.advance(COURTESY_S)
    second.wait().end()


def test_a_resource_is_counted_per_device_unless_it_is_global():
    for is_global in (False, True):
        zero = placed("zero", ("R", is_global, 1), device="cuda:0")
        one = placed("one", ("R", is_global, 1), device="cuda:1")
        limiter, clock = limiter_of(zero, one)
        first = Holder(limiter, zero).wait()
        second = asks(limiter, clock, one) if is_global else Holder(limiter, one).wait()
        first.end()
        clock.advance(COURTESY_S)
        second.wait().end()


@pytest.mark.parametrize(("priorities", "shares"), [((1, 2), (60, 30)), ((0, 1), (45, 45)), ((1, 3), (66, 22))])
def test_turns_are_shared_by_priority_among_those_who_always_come_back(priorities, shares):
    placements = [placed(f"{at}", ("R", False, 1), priority=priority) for at, priority in enumerate(priorities)]
    limiter, clock = limiter_of(*placements)
    turns, over, total = [], threading.Event(), sum(shares)
    start = Holder(limiter, placements[0]).wait()

    def work(placement):
        while not over.is_set():
            with limiter.use(placement):
                turns.append(placement.name)
                if len(turns) >= total:
                    over.set()

    threads = [threading.Thread(target=work, args=(placement,)) for placement in placements]
    for thread in threads:
        thread.start()
    start.end()
    assert over.wait(TIMEOUT)
    for thread in threads:
        while thread.is_alive():  # nobody comes back any more: the courtesy shown to those who left ends by the clock
            clock.advance(COURTESY_S)
            thread.join(0.01)
    for placement, share in zip(placements, shares, strict=True):
        assert abs(turns[:total].count(placement.name) - share) <= 3


def test_who_rests_gathers_no_claim_to_a_run_of_turns():
    busy, rested = placed("busy", ("R", False, 1)), placed("rested", ("R", False, 1))
    limiter, clock = limiter_of(busy, rested)
    for _ in range(100):
        Holder(limiter, busy).wait().end()
    with limiter.use(rested):
        pass
    holding = Holder(limiter, rested).wait()
    mine = asks(limiter, clock, busy)
    again = asks(limiter, clock, rested)
    holding.end()
    clock.advance(COURTESY_S)
    mine.wait()
    assert not again.has.is_set()
    mine.end()
    clock.advance(COURTESY_S)
    again.wait().end()


def test_off_nothing_is_limited_and_the_execution_is_itself():
    a = placed("a", ("R", False, 1))
    limiter = RateLimiter({"R": 0})
    limiter.register(a)
    execution = Recording(limiter)
    assert limited(execution, a, limiter) is execution
    assert limited(execution, a, None) is execution
    with limiter.use(a), limiter.use(a):
        pass


class Recording:
    def __init__(self, limiter):
        self.limiter = limiter
        self.lent = []

    def run(self, requests):
        self.lent.append(dict(self.limiter._lent))
        if requests == ["bad"]:
            raise ValueError("bad")
        return requests


def test_a_limited_execution_holds_its_resources_while_it_runs_and_gives_them_back_whatever_happens():
    a = placed("a", ("R", False, 2), ("G", True, 1))
    limiter, _ = limiter_of(a)
    execution = Recording(limiter)
    bounded = limited(execution, a, limiter)
    assert bounded.run(["x"]) == ["x"]
    with pytest.raises(ValueError, match="bad"):
        bounded.run(["bad"])
    assert execution.lent == [{("R", 0): 2, ("G", None): 1}] * 2
    assert set(limiter._lent.values()) == {0}
    unbounded = placed("free")
    assert limited(execution, unbounded, limiter) is execution


@pytest.mark.parametrize(
    ("limits", "resource", "limit"),
    [({"R": 3}, ("R", False, 4), 3), ({"S": 9}, ("R", False, 4), 0), ({"R:1": 9}, ("R", False, 4), 0)],
)
def test_an_instance_that_could_never_run_is_refused_in_triton_s_words(limits, resource, limit):
    limiter, _ = limiter_of(limits=limits)
    with pytest.raises(InferError) as caught:
        limiter.register(placed("a", resource))
    assert caught.value.code is ErrorCode.INVALID_ARG
    assert caught.value.message == (
        f'Resource count for "R" is limited to {limit} which will prevent scheduling of one or more model instances, '
        "the minimum required count is 4"
    )
    limiter.register(placed("b"))


def test_limits_may_name_a_device_and_global_ones_take_the_largest():
    limiter, _ = limiter_of(limits={"R": 1, "R:1": 3})
    limiter.register(placed("a", ("R", False, 3), device="cuda:1"))
    with pytest.raises(InferError, match="limited to 1"):
        limiter.register(placed("b", ("R", False, 3), device="cuda:0"))
    wide, _ = limiter_of(limits={"R": 1, "R:1": 3})
    wide.register(placed("c", ("R", True, 3)))


def test_a_resource_cannot_be_global_and_of_a_device():
    limiter, _ = limiter_of(placed("a", ("R", True, 1)))
    with pytest.raises(InferError, match='Resource "R" is present as both global and device-specific resource'):
        limiter.register(placed("b", ("R", False, 1)))


def test_what_is_unregistered_counts_no_more():
    small, large = placed("small", ("R", False, 1)), placed("large", ("R", False, 2))
    limiter, clock = limiter_of(small, large, large)
    limiter.unregister(large)
    limiter.unregister(large)
    with pytest.raises(KeyError):
        limiter.unregister(large)
    first = Holder(limiter, small).wait()
    second = asks(limiter, clock, small)  # there is 1 again, not 2
    first.end()
    clock.advance(COURTESY_S)
    second.wait().end()
