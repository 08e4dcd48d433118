"""Batches of like items: formed around the oldest, padded cost bounded, nobody starved."""

from collections.abc import Sequence

from batcher_harness import answers, bench
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.inference.batch_future import BatchFuture
from nextact_server.inference.batch_queue import BatchQueue, Job


def queue_of(costs: Sequence[int], *, padded: bool, ordered: bool = True) -> BatchQueue[int, None]:
    queue: BatchQueue[int, None] = BatchQueue(ordered=ordered, padded=padded)
    for number, cost in enumerate(costs):
        queue.add(Job(number, number, cost, float(cost), 0.0, BatchFuture(number, lambda _: None)))
    return queue


def test_a_batch_is_the_oldest_and_those_most_like_it():
    with bench(max_cost=3, order=len) as b:
        b.occupy()
        texts = ["bb", "a" * 50, "ccc", "d" * 49, "e", "f" * 51]
        futures = [b.batcher.submit(text) for text in texts]
        b.model.release()
        assert answers(futures) == [("answer", text) for text in texts]
        assert b.model.batches[1:] == [["e", "bb", "ccc"], ["d" * 49, "a" * 50, "f" * 51]]


def test_an_odd_one_is_not_starved_by_a_stream_of_like_ones():
    with bench(max_cost=2, order=len) as b:
        b.occupy()
        odd = b.batcher.submit("x" * 99)
        like = [b.batcher.submit("a") for _ in range(6)]
        b.model.release()
        answers([odd, *like])
        assert "x" * 99 in b.model.batches[1]


def test_a_padded_batch_costs_its_longest_item_times_its_count():
    with bench(max_cost=12, cost=len, order=len, padded=True, max_queue_cost=1000) as b:
        b.occupy("x")
        futures = [b.batcher.submit("a" * n) for n in (4, 6, 3, 6, 4, 1)]
        b.model.release()
        answers(futures)
        for batch in b.model.batches:
            assert max(map(len, batch)) * len(batch) <= 12
        assert [report.cost for report in b.seen.reports] == [max(map(len, x)) * len(x) for x in b.model.batches]
        assert sorted(map(len, b.model.batches[1])) == [3, 4, 4]


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=40),
    st.integers(5, 30),
    st.booleans(),
    st.booleans(),
    st.sets(st.integers(0, 39)),
)
def test_every_batch_holds_the_oldest_keeps_the_bound_and_wastes_no_room(costs, max_cost, padded, ordered, gone):
    queue = queue_of(costs, padded=padded, ordered=ordered)
    waiting = dict(enumerate(costs))
    for number in gone & waiting.keys():
        assert queue.remove(number).item == number
        assert queue.remove(number) is None
        del waiting[number]
    while waiting:
        assert queue.cost == sum(waiting.values())
        assert len(queue) == len(waiting)
        total_of_all = max(waiting.values()) * len(waiting) if padded else sum(waiting.values())
        assert queue.reach >= total_of_all
        batch, cost = queue.take(max_cost)
        numbers = [job.number for job in batch]
        assert min(waiting) in numbers
        mine = [waiting.pop(number) for number in numbers]
        assert cost == (max(mine) * len(mine) if padded else sum(mine))
        assert cost <= max_cost or len(mine) == 1
        if ordered:
            assert mine == sorted(mine)
        else:
            assert numbers == sorted(numbers)
            assert numbers == sorted([*numbers, *waiting])[: len(numbers)]
        if waiting:  # the next in line, or the next on either side, would not have fitted
            key = costs[min(numbers)]
            nearest = (
                [min(waiting)]
                if not ordered
                else [
                    n
                    for n in (
                        max(
                            (n for n in waiting if (waiting[n], n) < (mine[0], numbers[0])),
                            key=lambda n: (waiting[n], n),
                            default=None,
                        ),
                        min(
                            (n for n in waiting if (waiting[n], n) > (mine[-1], numbers[-1])),
                            key=lambda n: (waiting[n], n),
                            default=None,
                        ),
                    )
                    if n is not None
                ]
            )
            for number in nearest:
                grown = [*mine, waiting[number]]
                assert (max(grown) * len(grown) if padded else sum(grown)) > max_cost, key
    assert (len(queue), queue.cost, queue.reach) == (0, 0, 0)
