"""Who is let into the queue, who waits for room, and what closing does to all of them."""

import asyncio
import threading
from concurrent.futures import wait
from contextlib import suppress

import pytest
from batcher_harness import TIMEOUT, answers, bench

from nextact_server.inference.batcher import BatcherClosed, QueueFull


def test_a_full_queue_refuses_at_once_and_names_limit_and_setting():
    with bench(cost=len, max_queue_cost=10) as b:
        b.occupy("x")
        b.batcher.submit("a" * 7)
        with pytest.raises(
            QueueFull, match=r"costs 4, 7 wait already and the limit is 10.*raise the limit of toy"
        ) as caught:
            b.batcher.submit("b" * 4)
        error = caught.value
        assert (error.name, error.limit, error.queued, error.cost) == ("toy", 10, 7, 4)
        b.batcher.submit("c" * 3)  # what fits is still taken
        assert b.seen.rejected_costs == [4]
        assert b.batcher.queued_cost == 10


def test_a_refusal_guesses_when_to_retry_from_how_long_batches_take():
    with bench(max_cost=8, max_queue_cost=16) as b:
        first = b.occupy()
        b.clock.advance(1.5)
        b.model.release()
        first.result(TIMEOUT)
        b.occupy()
        b.batcher.submit_many(range(16))
        with pytest.raises(QueueFull) as caught:
            b.batcher.submit("over")
        assert caught.value.retry_after_s == pytest.approx(2 * 1.5)


def test_what_is_being_computed_does_not_count_as_waiting():
    with bench(max_cost=4, max_queue_cost=4) as b:
        b.model.hold()
        running = b.batcher.submit_many(range(4))
        b.model.wait_entered()
        waiting = b.batcher.submit_many(range(4, 8))
        with pytest.raises(QueueFull):
            b.batcher.submit(8)
        b.model.release()
        assert answers([*running, *waiting]) == [("answer", n) for n in range(8)]


def test_items_submitted_together_are_admitted_all_or_none():
    with bench(max_queue_cost=10) as b:
        b.occupy()
        b.batcher.submit_many(range(6))
        with pytest.raises(QueueFull):
            b.batcher.submit_many(range(5))
        assert b.batcher.queued_items == 6
        assert b.batcher.submit_many([]) == []


def test_an_item_that_never_fits_is_refused_also_by_an_empty_queue():
    with bench(cost=len, max_queue_cost=10) as b:
        with pytest.raises(QueueFull, match="costs 11"):
            b.batcher.submit("a" * 11)
        with pytest.raises(QueueFull, match="costs 11"):
            b.batcher.room(11)


def test_a_failing_cost_function_reaches_its_caller_and_queues_nothing():
    with bench(cost=len) as b:
        with pytest.raises(TypeError):
            b.batcher.submit(5)
        assert b.batcher.queued_items == 0


def test_there_is_room_at_once_in_a_queue_that_is_not_full():
    with bench() as b:
        assert b.batcher.room(100).done()


def full_bench(**settings):
    return bench(**({"cost": len, "max_queue_cost": 10} | settings))


def test_room_comes_to_those_who_wait_in_their_order_when_a_batch_leaves():
    with full_bench() as b:
        b.occupy("x")
        b.batcher.submit("a" * 8)
        b.batcher.submit("b" * 2)
        large, small = b.batcher.room(9), b.batcher.room(1)
        assert not large.done()
        assert not small.done()
        order = []
        large.add_done_callback(lambda _: order.append("large"))
        small.add_done_callback(lambda _: order.append("small"))
        b.model.release()
        wait([large, small], TIMEOUT)
        assert order == ["large", "small"]


def test_room_comes_when_a_waiting_caller_cancels():
    with full_bench() as b:
        b.occupy("x")
        waiting = b.batcher.submit("a" * 10)
        room = b.batcher.room(4)
        waiting.cancel()
        assert room.done()


def test_room_comes_when_a_waiting_item_expires():
    with full_bench() as b:
        b.occupy("x")
        b.batcher.submit("a" * 10, deadline=b.clock.monotonic() + 1)
        room = b.batcher.room(4)
        b.clock.advance(1)
        assert room.result(TIMEOUT) is None


def test_whoever_stops_waiting_for_room_is_skipped():
    with full_bench() as b:
        b.occupy("x")
        waiting = [b.batcher.submit("a" * 6), b.batcher.submit("b" * 4)]
        large, small = b.batcher.room(10), b.batcher.room(4)
        assert large.cancel()
        waiting[1].cancel()
        assert small.done()


def test_an_asyncio_stream_waits_for_room_instead_of_being_refused():
    async def stream(b):
        sent = []
        for n in range(20):
            while True:
                try:
                    sent.append(asyncio.wrap_future(b.batcher.submit(str(n))))
                    break
                except QueueFull:
                    await asyncio.wrap_future(b.batcher.room(len(str(n))))
        return await asyncio.wait_for(asyncio.gather(*sent), TIMEOUT)

    with full_bench(max_cost=3, max_queue_cost=3) as b:
        assert asyncio.run(stream(b)) == [("answer", str(n)) for n in range(20)]


def test_closing_with_drain_answers_everyone():
    with bench(max_cost=2, max_queue_delay_s=60.0) as b:
        futures = [b.batcher.submit(n) for n in range(7)]
        b.batcher.close(drain=True)
        assert [future.result(0) for future in futures] == [("answer", n) for n in range(7)]


def test_closing_without_drain_finishes_the_running_batch_and_fails_the_rest():
    with bench() as b:
        running = b.occupy()
        waiting = [b.batcher.submit(n, deadline=b.clock.monotonic() + 9) for n in range(3)]
        room = b.batcher.room(100)
        closer = threading.Thread(target=lambda: b.batcher.close(drain=False))
        closer.start()
        for future in [*waiting, room]:
            with pytest.raises(BatcherClosed, match="batcher toy is closed"):
                future.result(TIMEOUT)
        assert not running.done()
        b.model.release()
        closer.join(TIMEOUT)
        assert running.result(0) == ("answer", "first")
        assert b.model.batches == [["first"]]


def test_a_drain_that_takes_too_long_can_be_cut_short():
    with bench() as b:
        running = b.occupy()
        waiting = b.batcher.submit("waits")
        drainer = threading.Thread(target=lambda: b.batcher.close(drain=True))
        drainer.start()
        cutter = threading.Thread(target=lambda: b.batcher.close(drain=False))
        cutter.start()
        assert isinstance(waiting.exception(TIMEOUT), BatcherClosed)
        b.model.release()
        drainer.join(TIMEOUT)
        cutter.join(TIMEOUT)
        assert running.result(0) == ("answer", "first")


def test_deadlines_hold_while_draining():
    with bench() as b:
        b.occupy()
        late = b.batcher.submit("late", deadline=b.clock.monotonic() + 1)
        drainer = threading.Thread(target=lambda: b.batcher.close(drain=True))
        drainer.start()
        b.clock.advance(1)
        assert late.exception(TIMEOUT) is not None
        b.model.release()
        drainer.join(TIMEOUT)
        assert b.model.batches == [["first"]]


def test_a_closed_batcher_takes_nothing_and_leaves_no_thread():
    with bench() as b:
        b.batcher.submit("a", deadline=b.clock.monotonic() + 1).result(TIMEOUT)
        threads = [b.batcher._worker.thread, b.batcher._line.timer]
        b.batcher.close(drain=True)
        b.batcher.close(drain=False)
        assert not any(thread.is_alive() for thread in threads)
        with pytest.raises(BatcherClosed):
            b.batcher.submit("b")
        with pytest.raises(BatcherClosed):
            b.batcher.room(1).result(0)


def test_a_callback_may_close_the_batcher_it_is_called_by():
    with bench() as b:
        running = b.occupy()
        closed = threading.Event()
        running.add_done_callback(lambda _: (b.batcher.close(drain=True), closed.set()))
        waiting = b.batcher.submit("waits")
        b.model.release()
        assert closed.wait(TIMEOUT)
        assert waiting.result(TIMEOUT) == ("answer", "waits")


def test_a_batcher_as_context_drains_on_success_and_not_on_error():
    with bench() as b:
        running = b.occupy()
        waiting = b.batcher.submit("waits")

        def fail_inside():
            with suppress(RuntimeError), b.batcher:
                raise RuntimeError("caller failed")

        leaver = threading.Thread(target=fail_inside)
        leaver.start()
        assert isinstance(waiting.exception(TIMEOUT), BatcherClosed)
        b.model.release()
        leaver.join(TIMEOUT)
        assert running.result(0) == ("answer", "first")
