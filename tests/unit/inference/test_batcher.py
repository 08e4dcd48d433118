import pytest
from batcher_harness import TIMEOUT, Model, answers, bench

from nextact_server.inference.batcher import Batcher, BatchReason

WINDOW = 0.005


def test_a_lone_request_leaves_at_once_while_time_stands_still():
    with bench() as b:
        assert b.batcher.submit("a").result(TIMEOUT) == ("answer", "a")
        assert [report.reason for report in b.seen.reports] == [BatchReason.IDLE]


def test_what_gathers_while_the_model_computes_leaves_as_one_batch():
    with bench() as b:
        first = b.occupy()
        later = [b.batcher.submit(n) for n in range(5)]
        b.model.release()
        assert answers([first, *later]) == [("answer", "first"), *(("answer", n) for n in range(5))]
        assert b.model.batches == [["first"], [0, 1, 2, 3, 4]]


def test_batches_are_bounded_and_first_come_is_first_served():
    with bench(max_cost=4) as b:
        b.occupy()
        futures = [b.batcher.submit(n) for n in range(10)]
        b.model.release()
        answers(futures)
        assert b.model.batches[1:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [report.reason for report in b.seen.reports[1:]] == [
            BatchReason.FULL,
            BatchReason.FULL,
            BatchReason.IDLE,
        ]


def test_size_is_counted_in_cost_and_not_in_requests():
    with bench(max_cost=8, cost=len) as b:
        b.occupy("xxxxxxxx")
        futures = [b.batcher.submit(text) for text in ("aaaaa", "bbb", "cccc", "ddddd", "e")]
        assert (b.batcher.queued_items, b.batcher.queued_cost) == (5, 18)
        b.model.release()
        answers(futures)
        assert b.model.batches[1:] == [["aaaaa", "bbb"], ["cccc"], ["ddddd", "e"]]
        assert [report.cost for report in b.seen.reports[1:]] == [8, 4, 6]


def test_an_item_that_costs_nothing_still_counts():
    with bench(max_cost=2, cost=lambda item: 0) as b:
        b.occupy()
        futures = [b.batcher.submit(n) for n in range(3)]
        b.model.release()
        answers(futures)
        assert b.model.batches[1:] == [[0, 1], [2]]


def test_items_submitted_together_leave_together_even_when_the_worker_is_free():
    with bench() as b:
        answers(b.batcher.submit_many(range(8)))
        assert b.model.batches == [list(range(8))]


def test_all_batches_run_on_the_one_worker_thread():
    with bench() as b:
        for n in range(5):
            b.batcher.submit(n).result(TIMEOUT)
        assert len(b.model.threads) == 1


def test_the_window_opens_at_the_first_arrival_and_lasts_no_longer():
    with bench(max_queue_delay_s=WINDOW) as b:
        start = b.clock.monotonic()
        first = b.batcher.submit("a")
        b.clock.wait_for_parked(start + WINDOW)
        b.clock.advance(0.004)
        second = b.batcher.submit("b")
        b.clock.wait_for_parked(start + WINDOW)  # a later arrival does not move its end
        assert b.model.batches == []
        b.clock.advance(start + WINDOW - b.clock.monotonic())
        assert answers([first, second]) == [("answer", "a"), ("answer", "b")]
        assert b.model.batches == [["a", "b"]]
        assert b.seen.reports[0].reason is BatchReason.DELAY
        assert b.seen.reports[0].oldest_queue_s == pytest.approx(WINDOW)


def test_each_window_opens_anew_after_an_idle_stretch():
    with bench(max_queue_delay_s=WINDOW) as b:
        for pause in (0.0, 0.0123, 7.7):
            b.clock.advance(pause)
            end = b.clock.monotonic() + WINDOW
            future = b.batcher.submit(pause)
            b.clock.wait_for_parked(end)
            b.clock.advance(WINDOW + 1e-9)
            future.result(TIMEOUT)
        assert [report.oldest_queue_s for report in b.seen.reports] == pytest.approx([WINDOW] * 3)


def test_the_window_closes_early_when_a_batch_is_full():
    with bench(max_queue_delay_s=WINDOW, max_cost=3) as b:
        first = b.batcher.submit(0)
        b.clock.wait_for_parked(b.clock.monotonic() + WINDOW)
        answers([first, b.batcher.submit(1), b.batcher.submit(2)])
        assert b.model.batches == [[0, 1, 2]]
        assert b.seen.reports[0].reason is BatchReason.FULL


def test_time_spent_waiting_for_a_busy_model_counts_into_the_window():
    with bench(max_queue_delay_s=WINDOW, max_cost=3) as b:
        b.model.hold()
        held = b.batcher.submit_many(["x", "y", "z"])
        b.model.wait_entered()
        late = b.batcher.submit("late")
        b.clock.advance(2 * WINDOW)
        b.model.release()
        answers([*held, late])  # time stands still: a window opened only now would never end
        assert b.seen.reports[1].reason is BatchReason.DELAY


def test_the_window_follows_the_next_in_line_when_the_first_cancels():
    with bench(max_queue_delay_s=WINDOW) as b:
        start = b.clock.monotonic()
        first = b.batcher.submit("a")
        b.clock.wait_for_parked(start + WINDOW)
        b.clock.advance(0.003)
        second = b.batcher.submit("b")
        assert first.cancel()
        b.clock.advance(0.003)
        b.clock.wait_for_parked(start + 0.003 + WINDOW)
        assert b.model.batches == []
        b.clock.advance(0.003)
        second.result(TIMEOUT)
        assert b.model.batches == [["b"]]


def test_a_deadline_within_the_window_ends_it():
    with bench(max_queue_delay_s=WINDOW) as b:
        start = b.clock.monotonic()
        first = b.batcher.submit("a")
        b.clock.wait_for_parked(start + WINDOW)
        hurried = b.batcher.submit("b", deadline=start + 0.004)
        answers([first, hurried])
        assert b.model.batches == [["a", "b"]]
        assert b.seen.reports[0].reason is BatchReason.DEADLINE


def test_the_future_and_the_report_tell_how_long_each_stage_took():
    with bench() as b:
        b.occupy()
        b.clock.advance(1.0)
        early = b.batcher.submit("early")
        b.clock.advance(0.5)
        late = b.batcher.submit("late")
        b.clock.advance(0.25)
        b.model.release()
        answers([early, late])
        assert (early.queue_s, late.queue_s) == pytest.approx((0.75, 0.25))
        first, second = b.seen.reports
        assert (first.name, first.items, first.cost, first.runs, first.failures) == ("toy", 1, 1, 1, 0)
        assert (first.compute_s, first.queue_s) == pytest.approx((1.75, 0.0))
        assert (second.items, second.queue_s, second.oldest_queue_s) == (2, pytest.approx(1.0), pytest.approx(0.75))


def test_a_batch_is_reported_once_before_its_callers_are_answered():
    with bench() as b:
        b.occupy()
        reports_at_answer = []
        futures = [b.batcher.submit(n) for n in range(4)]
        for future in futures:
            future.add_done_callback(lambda _: reports_at_answer.append(len(b.seen.reports)))
        b.model.release()
        answers(futures)
        b.batcher.close(drain=True)
        assert reports_at_answer == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_cost": 0}, "max_cost"),
        ({"max_cost": 8, "max_queue_cost": 7}, "max_queue_cost"),
        ({"max_queue_delay_s": -1.0}, "max_queue_delay_s"),
        ({"max_queue_delay_s": float("nan")}, "max_queue_delay_s"),
        ({"split": lambda item, cost: [item]}, "join"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, named):
    with pytest.raises(ValueError, match=named):
        Batcher("toy", Model(), **({"max_cost": 8, "max_queue_cost": 100} | settings))
