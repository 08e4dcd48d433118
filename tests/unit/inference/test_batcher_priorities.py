"""Levels: who goes first, how many may wait, and for how long."""

from dataclasses import dataclass

import pytest
from batcher_harness import TIMEOUT, answers, bench
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.inference.batcher import BatchReason, DeadlineExpired, PriorityLevels, QueueFull
from nextact_server.inference.infer_spec import QueuePolicy, TimeoutAction

DELAY = TimeoutAction.DELAY
PLAIN = QueuePolicy()


@dataclass(frozen=True)
class Item:
    name: str
    priority: int = 0
    timeout_us: int = 0


def levels(count=3, default=2, policy=PLAIN, policies=None):
    return PriorityLevels(
        count,
        default,
        policy,
        policies or {},
        priority=lambda item: item.priority,
        timeout_us=lambda item: item.timeout_us,
    )


def level_bench(*, count=3, policy=PLAIN, policies=None, **settings):
    return bench(levels=levels(count, 2 if count else 0, policy, policies), **settings)


def names(batch):
    return "".join(item.name for item in batch)


def run_behind_a_busy_model(b, *items):
    b.occupy(Item("-"))
    futures = [b.batcher.submit(item) for item in items]
    b.model.release()
    answers(futures)
    return [names(batch) for batch in b.model.batches[1:]]


def test_the_first_level_goes_first_and_each_level_in_its_order():
    with level_bench(max_cost=1) as b:
        items = [Item("a", 3), Item("b", 2), Item("c", 1), Item("d", 2), Item("e", 1), Item("f", 3)]
        assert run_behind_a_busy_model(b, *items) == list("cebdaf")


def test_no_priority_and_one_that_is_no_level_are_the_default_level():
    with level_bench(max_cost=1) as b:
        items = [Item("a", 3), Item("b", 0), Item("c", 9), Item("d", 2), Item("e", 1)]
        assert run_behind_a_busy_model(b, *items) == list("ebcda")


def test_a_batch_is_filled_up_from_lower_levels():
    with level_bench(max_cost=3) as b:
        assert run_behind_a_busy_model(b, Item("a", 3), Item("b", 2), Item("c", 1), Item("d", 1)) == ["cdb", "a"]


def test_without_levels_priorities_change_nothing():
    with level_bench(count=0, policy=QueuePolicy(max_queue_size=9), max_cost=2) as b:
        assert run_behind_a_busy_model(b, Item("a", 3), Item("b", 1), Item("c", 2)) == ["ab", "c"]


def test_a_level_s_bound_counts_requests_and_leaves_the_other_levels_alone():
    with level_bench(policies={1: QueuePolicy(max_queue_size=2)}, cost=lambda item: 3) as b:
        b.occupy(Item("-"))
        b.batcher.submit_many([Item("a", 1), Item("b", 1)])
        with pytest.raises(QueueFull) as caught:
            b.batcher.submit(Item("c", 1))
        assert (caught.value.limit, caught.value.queued) == (2, 2)
        assert b.seen.rejected_costs == [3]
        b.batcher.submit(Item("d", 2))
        assert b.batcher.queued_items == 3


def test_what_is_being_computed_does_not_count_into_a_level_s_bound():
    with level_bench(count=0, policy=QueuePolicy(max_queue_size=1)) as b:
        b.occupy(Item("-"))
        waiting = b.batcher.submit(Item("a"))
        with pytest.raises(QueueFull):
            b.batcher.submit(Item("b"))
        assert waiting.cancel()
        b.batcher.submit(Item("c"))


def test_items_together_enter_a_bounded_level_all_or_none():
    with level_bench(count=0, policy=QueuePolicy(max_queue_size=2)) as b:
        b.occupy(Item("-"))
        with pytest.raises(QueueFull):
            b.batcher.submit_many([Item("a"), Item("b"), Item("c")])
        assert b.batcher.queued_items == 0


def test_a_split_item_counts_as_one_when_it_comes():
    settings = {
        "max_cost": 1,
        "cost": lambda item: len(item.name),
        "split": lambda item, most: [Item(letter) for letter in item.name],
        "join": lambda item, parts: parts,
    }
    with level_bench(count=0, policy=QueuePolicy(max_queue_size=1), **settings) as b:
        b.occupy(Item("-"))
        large = b.batcher.submit(Item("abc"))
        with pytest.raises(QueueFull):
            b.batcher.submit(Item("d"))
        b.model.release()
        assert len(large.result(TIMEOUT)) == 3


def test_a_timeout_is_noticed_at_its_moment_while_the_model_is_busy_and_nothing_runs():
    with level_bench(count=0, policy=QueuePolicy(default_timeout_us=100_000)) as b:
        b.occupy(Item("-"))
        start = b.clock.monotonic()
        late = b.batcher.submit(Item("late"))
        b.clock.wait_for_parked(start + 0.1)
        b.clock.advance(0.1)
        assert isinstance(late.exception(TIMEOUT), DeadlineExpired)
        b.model.release()
        assert b.batcher.submit(Item("after")).result(TIMEOUT)
        assert [names(batch) for batch in b.model.batches] == ["-", "after"]


@pytest.mark.parametrize(
    ("default_us", "allowed", "own_us", "expires_us"),
    [
        (100_000, True, 50_000, 50_000),
        (100_000, True, 200_000, 100_000),
        (100_000, True, 0, 100_000),
        (100_000, False, 50_000, 100_000),
        (0, True, 50_000, None),
        (0, False, 50_000, None),
    ],
)
def test_a_request_may_only_shorten_the_timeout_and_only_where_it_is_allowed(default_us, allowed, own_us, expires_us):
    policy = QueuePolicy(default_timeout_us=default_us, allow_timeout_override=allowed)
    with level_bench(policy=policy) as b:
        b.occupy(Item("-", 3))
        future = b.batcher.submit(Item("a", 1, own_us))
        if expires_us is None:
            b.clock.advance(1e6)
            b.model.release()
            assert future.result(TIMEOUT)
        else:
            b.clock.advance(expires_us * 1e-6 - 0.001)
            assert not future.done()
            b.clock.advance(0.0011)
            assert isinstance(future.exception(TIMEOUT), DeadlineExpired)


def test_a_delayed_request_is_computed_after_all_of_its_level_that_are_in_time():
    policy = QueuePolicy(DELAY, default_timeout_us=100_000, allow_timeout_override=True)
    with level_bench(policy=policy, max_cost=1) as b:
        b.occupy(Item("-"))
        early = [b.batcher.submit(item) for item in (Item("a", 1), Item("b", 1, 50_000), Item("c", 2))]
        b.clock.advance(0.2)
        fresh = [b.batcher.submit(item) for item in (Item("d", 1), Item("e", 1), Item("f", 2))]
        b.model.release()
        answers([*early, *fresh])
        assert [names(batch) for batch in b.model.batches[1:]] == ["d", "e", "b", "a", "f", "c"]
        assert b.seen.expired_items == 0


def test_a_delay_does_not_end_the_window_but_a_rejection_within_it_does():
    for action, reason in ((DELAY, BatchReason.DELAY), (TimeoutAction.REJECT, BatchReason.DEADLINE)):
        with level_bench(policy=QueuePolicy(action, default_timeout_us=1000), max_queue_delay_s=0.005) as b:
            end = b.clock.monotonic() + 0.005
            future = b.batcher.submit(Item("a"))
            if action is DELAY:
                b.clock.wait_for_parked(end)
                b.clock.advance(0.005)
            future.result(TIMEOUT)
            assert b.seen.reports[0].reason is reason


def test_a_delayed_request_can_be_cancelled_and_still_has_the_caller_s_deadline():
    with level_bench(policy=QueuePolicy(DELAY, default_timeout_us=1000)) as b:
        b.occupy(Item("-"))
        gone = b.batcher.submit(Item("gone"))
        late = b.batcher.submit(Item("late"), deadline=b.clock.monotonic() + 1)
        stays = b.batcher.submit(Item("stays"))
        b.clock.advance(0.5)
        assert gone.cancel()
        b.clock.advance(0.5)
        assert isinstance(late.exception(TIMEOUT), DeadlineExpired)
        b.model.release()
        stays.result(TIMEOUT)
        assert [names(batch) for batch in b.model.batches] == ["-", "stays"]


def test_a_window_opens_at_the_first_arrival_of_whatever_level():
    with level_bench(max_queue_delay_s=0.005) as b:
        end = b.clock.monotonic() + 0.005
        first = b.batcher.submit(Item("a", 3))
        b.clock.wait_for_parked(end)
        b.clock.advance(0.004)
        second = b.batcher.submit(Item("b", 1))
        b.clock.wait_for_parked(end)
        b.clock.advance(end - b.clock.monotonic())
        answers([first, second])
        assert [names(batch) for batch in b.model.batches] == ["ba"]


def test_a_preferred_size_is_seen_across_levels():
    with level_bench(max_queue_delay_s=0.005, preferred=[3], cost=lambda item: len(item.name)) as b:
        first = b.batcher.submit(Item("aaaa", 3))
        # 4 is over the largest preferred size, so it left alone: what comes now opens a window of its own.
        answers([first])
        second = b.batcher.submit(Item("b", 3))
        b.clock.wait_for_parked(b.clock.monotonic() + 0.005)
        answers([second, b.batcher.submit(Item("cc", 1))])
        assert [names(batch) for batch in b.model.batches] == ["aaaa", "ccb"]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=25),
    st.integers(1, 4),
)
def test_the_queue_is_served_by_level_then_in_time_then_by_arrival(entries, max_cost):
    with level_bench(policy=QueuePolicy(DELAY, default_timeout_us=1000), max_cost=max_cost) as b:
        b.occupy(Item("-"))
        old = [(n, priority) for n, (priority, is_old) in enumerate(entries) if is_old]
        new = [(n, priority) for n, (priority, is_old) in enumerate(entries) if not is_old]
        futures = [b.batcher.submit(Item(f"{n},", priority)) for n, priority in old]
        b.clock.advance(0.01)
        futures += [b.batcher.submit(Item(f"{n},", priority)) for n, priority in new]
        b.model.release()
        answers(futures)
        rank = {(n, p): (p if 1 <= p <= 3 else 2, late, n) for late, some in ((1, old), (0, new)) for n, p in some}
        assert [item.name for item in b.model.items[1:]] == [f"{n}," for n, _ in sorted(rank, key=rank.__getitem__)]
        assert all(len(batch) == max_cost for batch in b.model.batches[1:-1])
