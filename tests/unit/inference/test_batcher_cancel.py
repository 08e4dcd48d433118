"""A caller that goes away costs the others nothing."""

import asyncio
import gc
import weakref

import pytest
from batcher_harness import TIMEOUT, answers, bench


@pytest.mark.parametrize("gone", range(4))
def test_cancelling_one_caller_leaves_the_batch_whole(gone):
    with bench() as b:
        b.occupy()
        futures = [b.batcher.submit(n) for n in range(4)]
        assert futures[gone].cancel()
        b.model.release()
        stayed = [n for n in range(4) if n != gone]
        assert answers([futures[n] for n in stayed]) == [("answer", n) for n in stayed]
        assert b.model.batches[1:] == [stayed]
        assert b.seen.cancelled_items == 1


def test_a_cancelled_item_frees_its_cost_at_once_even_while_the_model_is_busy():
    with bench(cost=len, max_queue_cost=10) as b:
        b.occupy("x")
        large = b.batcher.submit("a" * 8)
        freed = []
        large.add_done_callback(lambda _: freed.append(b.batcher.queued_cost))
        assert large.cancel()
        assert large.cancel()  # again is still true, and frees nothing twice
        assert freed == [0]
        assert (b.batcher.queued_items, b.batcher.queued_cost) == (0, 0)
        b.batcher.submit("b" * 8)


def test_cancelled_items_do_not_pile_up_behind_a_stuck_model():
    with bench() as b:
        b.occupy()
        for n in range(1000):
            assert b.batcher.submit(n, deadline=b.clock.monotonic() + 60).cancel()
        assert b.batcher.queued_items == 0
        assert len(b.batcher._line._deadlines) < 100


def test_what_is_being_computed_cannot_be_cancelled_and_is_answered():
    with bench() as b:
        future = b.occupy()
        assert not future.cancel()
        assert future.running()
        b.model.release()
        assert future.result(TIMEOUT) == ("answer", "first")
        assert b.seen.cancelled_items == 0


def test_a_batch_all_of_whose_callers_left_is_not_computed():
    with bench() as b:
        b.occupy()
        for future in [b.batcher.submit(n) for n in range(3)]:
            future.cancel()
        b.model.release()
        b.batcher.submit("after").result(TIMEOUT)
        assert b.model.batches == [["first"], ["after"]]


def test_a_caller_that_cancels_as_its_batch_leaves_is_not_computed():
    with bench() as b:
        first = b.occupy()
        waiting = [b.batcher.submit(n) for n in range(3)]
        # Between leaving the queue and the model, only the future itself can still be cancelled.
        assert super(type(waiting[1]), waiting[1]).cancel()
        b.model.release()
        assert answers([first, waiting[0], waiting[2]])[1:] == [("answer", 0), ("answer", 2)]
        assert b.model.batches[1:] == [[0, 2]]
        assert b.seen.cancelled_items == 1


def test_an_asyncio_caller_that_is_cancelled_leaves_the_queue():
    async def scenario(b):
        b.occupy()
        gone, stays = (asyncio.ensure_future(wait_for(b.batcher.submit(n))) for n in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        while b.batcher.queued_items > 1:
            await asyncio.sleep(0)
        b.model.release()
        assert await asyncio.wait_for(stays, TIMEOUT) == ("answer", 1)

    async def wait_for(future):
        return await asyncio.wrap_future(future)

    with bench() as b:
        asyncio.run(scenario(b))
        assert b.model.batches == [["first"], [1]]


class Item:
    pass


@pytest.mark.parametrize("cost", [1, 5])
def test_a_kept_answer_keeps_neither_the_item_nor_its_parts_alive(cost):
    settings = {
        "cost": lambda item: cost if item else 1,
        "split": lambda item, size: [0, 0],
        "join": lambda item, parts: 7,
    }
    gc.collect()
    gc.disable()
    try:
        with bench(lambda items: [7 for _ in items], max_cost=4, **settings) as b:
            item = Item()
            seen = weakref.ref(item)
            future = b.batcher.submit(item)
            assert future.result(TIMEOUT) == 7
            b.batcher.submit(0).result(TIMEOUT)  # the worker holds the last batch until the next
            del item
            assert seen() is None
    finally:
        gc.enable()


def test_an_idle_batcher_holds_no_item_alive():
    with bench(lambda items: [7 for _ in items]) as b:
        item = Item()
        seen = weakref.ref(item)
        b.batcher.submit(item).result(TIMEOUT)
        b.clock.wait_for_parked(None)
        del item
        gc.collect()
        assert seen() is None
