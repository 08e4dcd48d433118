"""Items larger than a batch: computed in parts, answered as one."""

import gc
import weakref

import pytest
from batcher_harness import TIMEOUT, Model, answers, bench

from nextact_server.inference.batcher import DeadlineExpired, QueueFull


def cut(rows, size):
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def joined(rows, parts):
    whole = [row for part in parts for row in part]
    assert len(whole) == len(rows)
    return whole


def doubled(rows):
    if "bad" in rows:
        raise ValueError("bad row")
    return [row * 2 for row in rows]


def rows_bench(**settings):
    settings = {"max_cost": 4, "cost": len, "split": cut, "join": joined} | settings
    return bench(Model(doubled), **settings)


def test_an_item_over_the_maximum_is_split_and_rejoined_in_order():
    with rows_bench() as b:
        assert b.batcher.submit(list(range(11))).result(TIMEOUT) == [2 * n for n in range(11)]
        assert all(sum(map(len, batch)) <= 4 for batch in b.model.batches)
        assert b.model.items == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_the_last_part_shares_its_batch_with_others():
    with rows_bench() as b:
        b.occupy([0])
        futures = [b.batcher.submit([1, 2, 3, 4, 5]), b.batcher.submit([6, 7])]
        b.model.release()
        assert answers(futures) == [[2, 4, 6, 8, 10], [12, 14]]
        assert b.model.batches[1:] == [[[1, 2, 3, 4]], [[5], [6, 7]]]


def test_an_item_over_the_maximum_runs_alone_where_it_cannot_be_split():
    with bench(Model(doubled), max_cost=4, cost=len) as b:
        b.occupy([0])
        futures = [b.batcher.submit(rows) for rows in ([1], [2] * 9, [3], [4])]
        b.model.release()
        assert answers(futures) == [[2], [4] * 9, [6], [8]]
        assert b.model.batches[1:] == [[[1]], [[2] * 9], [[3], [4]]]


def test_cancelling_a_split_item_takes_back_every_part_that_waits():
    with rows_bench() as b:
        b.occupy([0])
        large = b.batcher.submit(list(range(10)))
        small = b.batcher.submit([7])
        assert b.batcher.queued_cost == 11
        assert large.cancel()
        assert large.cancelled()
        assert b.batcher.queued_cost == 1
        b.model.release()
        assert small.result(TIMEOUT) == [14]
        assert b.model.batches[1:] == [[[7]]]


def test_cancelling_while_one_part_computes_takes_back_the_others():
    with rows_bench() as b:
        b.model.hold()
        large = b.batcher.submit(list(range(10)))
        b.model.wait_entered()
        assert large.cancel()
        assert b.batcher.queued_cost == 0
        b.model.release()
        b.batcher.close(drain=True)
        assert b.model.batches == [[[0, 1, 2, 3]]]


def test_a_split_item_whose_every_part_left_cannot_be_cancelled():
    with rows_bench(max_cost=4, cost=lambda rows: len(rows) if len(rows) > 4 else 1) as b:
        b.model.hold()
        large = b.batcher.submit(list(range(8)))
        b.model.wait_entered()
        assert not large.cancel()
        b.model.release()
        assert large.result(TIMEOUT) == [2 * n for n in range(8)]


def test_a_failing_part_fails_its_item_only_and_takes_back_the_other_parts():
    with rows_bench() as b:
        b.occupy([0])
        large = b.batcher.submit([1, 2, 3, "bad", 5, 6, 7, 8, 9])
        small = b.batcher.submit([10])
        b.model.release()
        with pytest.raises(ValueError, match="bad row"):
            large.result(TIMEOUT)
        assert small.result(TIMEOUT) == [20]
        assert [5, 6, 7, 8] not in b.model.items


def test_a_failing_join_reaches_the_caller():
    def broken(rows, parts):
        raise RuntimeError("cannot join")

    with rows_bench(join=broken) as b:
        with pytest.raises(RuntimeError, match="cannot join"):
            b.batcher.submit(list(range(9))).result(TIMEOUT)
        assert b.batcher.submit([1]).result(TIMEOUT) == [2]


def test_a_failing_split_reaches_the_caller_and_queues_nothing():
    with rows_bench(split=lambda rows, size: []) as b:
        with pytest.raises(ValueError, match="split of toy"):
            b.batcher.submit(list(range(9)))
        assert b.batcher.queued_items == 0


def test_a_split_item_is_admitted_whole_or_not_at_all():
    with rows_bench(max_queue_cost=10) as b:
        b.occupy([0])
        b.batcher.submit([1])
        with pytest.raises(QueueFull):
            b.batcher.submit(list(range(10)))
        assert b.batcher.queued_cost == 1


def test_a_split_item_expires_whole():
    with rows_bench() as b:
        b.occupy([0])
        large = b.batcher.submit(list(range(10)), deadline=b.clock.monotonic() + 1)
        b.clock.advance(1)
        with pytest.raises(DeadlineExpired):
            large.result(TIMEOUT)
        assert b.batcher.queued_cost == 0


def test_an_answered_split_item_is_freed_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        with rows_bench() as b:
            large = b.batcher.submit(list(range(9)))
            large.result(TIMEOUT)
            b.batcher.submit([0]).result(TIMEOUT)  # by now the worker is done with the parts
            seen = weakref.ref(large)
            del large
            assert seen() is None
    finally:
        gc.enable()


def test_the_stages_of_a_split_item_are_those_of_its_parts():
    with rows_bench() as b:
        b.occupy([0])
        large = b.batcher.submit(list(range(8)))
        b.clock.advance(2.0)
        b.model.release()
        large.result(TIMEOUT)
        assert large.queue_s == pytest.approx(2.0)
