"""A batch holds only items that are alike, and still first come is first served."""

from batcher_harness import answers, bench
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.inference.batcher import BatchReason

WINDOW = 0.005


def test_a_batch_ends_at_the_first_that_is_unlike():
    with bench(alike=len) as b:
        b.occupy("x")
        futures = [b.batcher.submit(text) for text in ("aa", "bb", "ccc", "dd", "ee")]
        b.model.release()
        answers(futures)
        assert b.model.batches[1:] == [["aa", "bb"], ["ccc"], ["dd", "ee"]]
        assert [report.reason for report in b.seen.reports[1:]] == [
            BatchReason.UNLIKE,
            BatchReason.UNLIKE,
            BatchReason.IDLE,
        ]


def test_an_unlike_one_ends_the_window_of_those_before_it():
    with bench(alike=len, max_queue_delay_s=WINDOW) as b:
        first = b.batcher.submit("aa")
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        odd = b.batcher.submit("ccc")
        answers([first])
        assert b.seen.reports[0].reason is BatchReason.UNLIKE
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        b.clock.advance(WINDOW)
        answers([odd])
        assert b.model.batches == [["aa"], ["ccc"]]


def test_alike_ones_fill_a_batch_and_no_more():
    with bench(alike=len, max_queue_delay_s=WINDOW, max_cost=3) as b:
        answers(b.batcher.submit_many(["aa", "bb", "cc"]))
        assert b.seen.reports[0].reason is BatchReason.FULL


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 5), st.booleans())
def test_every_batch_is_of_one_kind_and_nobody_is_overtaken(kinds, max_cost, windowed):
    items = list(enumerate(kinds))
    with bench(alike=lambda item: item[1], max_cost=max_cost, max_queue_delay_s=WINDOW if windowed else 0.0) as b:
        futures = [b.batcher.submit(item) for item in items]
        b.clock.advance(WINDOW)
        assert answers(futures) == [("answer", item) for item in items]
        assert b.model.items == items
        assert all(len({kind for _, kind in batch}) == 1 and len(batch) <= max_cost for batch in b.model.batches)
