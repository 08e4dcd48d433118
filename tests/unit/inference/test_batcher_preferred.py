"""Within a window a preferred size leaves at once; without a window there is nothing to prefer."""

import pytest
from batcher_harness import answers, bench

from nextact_server.inference.batcher import Batcher, BatchReason

WINDOW = 0.005


def test_a_preferred_size_leaves_before_the_window_ends():
    with bench(max_queue_delay_s=WINDOW, preferred=[4]) as b:
        first = b.batcher.submit_many(range(3))
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        assert b.model.batches == []
        answers([*first, b.batcher.submit(3)])
        assert b.model.batches == [[0, 1, 2, 3]]
        assert b.seen.reports[0].reason is BatchReason.PREFERRED


def test_the_largest_preferred_size_that_waits_is_taken_and_the_rest_waits_on():
    with bench(max_queue_delay_s=WINDOW, preferred=[2, 6], max_cost=8) as b:
        futures = b.batcher.submit_many(range(7))
        answers(futures[:6])
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        b.clock.advance(WINDOW)
        answers(futures)
        assert b.model.batches == [[0, 1, 2, 3, 4, 5], [6]]
        assert [report.reason for report in b.seen.reports] == [BatchReason.PREFERRED, BatchReason.DELAY]


def test_sizes_are_costs_and_only_what_the_first_ones_cost_together_counts():
    with bench(max_queue_delay_s=WINDOW, preferred=[4, 7], max_cost=8, cost=len) as b:
        first = b.batcher.submit("aaa")
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        second = b.batcher.submit("bb")  # 3, 5: neither is preferred
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        answers([first, second, b.batcher.submit("cc")])
        assert b.model.batches == [["aaa", "bb", "cc"]]
        assert b.seen.reports[0].reason is BatchReason.PREFERRED


def test_more_than_the_largest_preferred_size_waits_no_longer():
    with bench(max_queue_delay_s=WINDOW, preferred=[4], max_cost=8, cost=len) as b:
        answers([b.batcher.submit(text) for text in ("aaa", "bb")])  # 3, then 5: 4 cannot be made any more
        assert b.model.batches == [["aaa", "bb"]]


def test_when_the_window_is_over_everything_leaves_whatever_is_preferred():
    with bench(max_queue_delay_s=WINDOW, preferred=[2], max_cost=8) as b:
        b.model.hold()
        held = b.batcher.submit_many("xy")
        b.model.wait_entered()
        late = b.batcher.submit_many(range(5))
        b.clock.advance(WINDOW)
        b.model.release()
        answers([*held, *late])
        assert b.model.batches[1:] == [[0, 1, 2, 3, 4]]


def test_a_preferred_size_that_is_the_maximum_is_a_full_batch():
    with bench(max_queue_delay_s=WINDOW, preferred=[4, 8]) as b:
        answers(b.batcher.submit_many(range(8)))
        assert b.model.batches == [list(range(8))]
        assert b.seen.reports[0].reason is BatchReason.FULL


def test_without_a_window_a_free_worker_takes_what_there_is():
    with bench(preferred=[4]) as b:
        b.occupy()
        futures = [b.batcher.submit(n) for n in range(7)]
        b.model.release()
        answers(futures)
        assert b.model.batches[1:] == [list(range(7))]
        assert b.seen.reports[1].reason is BatchReason.IDLE


@pytest.mark.parametrize("size", [0, -1, 9])
def test_a_preferred_size_that_no_batch_has_is_refused(size):
    with pytest.raises(ValueError, match="preferred sizes of toy must be 1 to max_cost 8"):
        Batcher("toy", list, max_cost=8, max_queue_cost=8, preferred=[size])


def test_an_order_goes_with_neither_preferred_sizes_nor_kinds():
    for setting in ({"preferred": [2]}, {"alike": len}):
        with pytest.raises(ValueError, match="order of toy"):
            Batcher("toy", list, max_cost=8, max_queue_cost=8, order=len, **setting)
