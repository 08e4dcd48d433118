import threading
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.features.cache import ENTRY_OVERHEAD, VectorCache

ENTRY = 16 + ENTRY_OVERHEAD


def vector(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Counts:
    def __init__(self) -> None:
        self.hits = self.misses = self.joined = self.evicted = self.entries = self.size = 0

    def cache_lookups(self, hits: int, misses: int, joined: int) -> None:
        self.hits, self.misses, self.joined = self.hits + hits, self.misses + misses, self.joined + joined

    def cache_evicted(self, entries: int) -> None:
        self.evicted += entries

    def cache_size(self, entries: int, size_bytes: int) -> None:
        self.entries, self.size = entries, size_bytes


def test_the_same_content_asked_for_twice_at_once_is_computed_once() -> None:
    cache = VectorCache(10 * ENTRY)
    first, mine = cache.claim([key(1)])
    second, others = cache.claim([key(1), key(1)])
    assert mine == [0]
    assert others == []
    cache.settle(key(1), vector(7))
    for future in (*first, *second):
        assert future.result(0)[0] == 7
    assert cache.computing == 0


def test_cancelling_one_caller_leaves_the_computation_and_the_others_alone() -> None:
    cache = VectorCache(10 * ENTRY)
    (owner,), _ = cache.claim([key(1)])
    (other,), _ = cache.claim([key(1)])
    assert owner.cancel()
    cache.settle(key(1), vector(7))
    assert owner.cancelled()
    assert other.result(0)[0] == 7
    assert cache.get(key(1)) is not None


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    cache = VectorCache(10 * ENTRY)
    (first,), _ = cache.claim([key(1)])
    (second,), _ = cache.claim([key(1)])
    failure = OSError("no")
    cache.fail(key(1), failure)
    assert first.exception(0) is failure
    assert second.exception(0) is failure
    assert len(cache) == 0
    _, claimed = cache.claim([key(1)])
    assert claimed == [0]


def test_a_hit_is_answered_at_once() -> None:
    cache = VectorCache(10 * ENTRY)
    cache.put_many([(key(1), vector(3))])
    (future,), claimed = cache.claim([key(1)])
    assert claimed == []
    assert future.result(0)[0] == 3


def test_the_least_recently_used_leaves_first() -> None:
    cache = VectorCache(3 * ENTRY)
    cache.put_many([(key(n), vector(n)) for n in range(3)])
    assert cache.get(key(0)) is not None
    cache.put_many([(key(3), vector(3))])
    assert cache.get(key(1)) is None
    assert cache.get(key(0)) is not None


@given(
    bound=st.integers(0, 5 * ENTRY),
    steps=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60),
)
def test_memory_never_passes_its_bound_and_what_is_held_is_right(bound: int, steps: list[tuple[int, bool]]) -> None:
    cache = VectorCache(bound)
    for number, through_claim in steps:
        if through_claim:
            (future,), claimed = cache.claim([key(number)])
            if claimed:
                cache.settle(key(number), vector(number))
            assert future.result(0)[0] == number
        else:
            cache.put_many([(key(number), vector(number))])
        assert cache.size_bytes <= bound
        assert cache.size_bytes == len(cache) * ENTRY
        held = cache.get(key(number))
        assert held is None or held[0] == number


def test_a_vector_too_big_for_the_cache_still_reaches_its_caller() -> None:
    cache = VectorCache(0)
    (future,), _ = cache.claim([key(1)])
    cache.settle(key(1), vector(5))
    assert future.result(0)[0] == 5
    assert len(cache) == 0


def test_a_kept_vector_cannot_be_changed_and_keeps_no_batch_alive() -> None:
    cache = VectorCache(10 * ENTRY)
    batch = np.ones((100, 4), np.float32)
    cache.put_many([(key(1), batch[0])])
    batch[0] = 9
    held = cache.get(key(1))
    assert held is not None
    assert held.base is None
    assert held[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 2


def test_hits_misses_joins_and_evictions_are_counted() -> None:
    counts = Counts()
    cache = VectorCache(2 * ENTRY, counts)
    cache.claim([key(1), key(2), key(1)])
    cache.settle(key(1), vector(1))
    cache.settle(key(2), vector(2))
    cache.get_many([key(1), key(9)])
    cache.put_many([(key(3), vector(3))])
    assert (counts.hits, counts.misses, counts.joined, counts.evicted) == (1, 3, 1, 1)
    assert (counts.entries, counts.size) == (2, 2 * ENTRY)


def test_many_threads_asking_at_once_start_one_computation() -> None:
    cache = VectorCache(100 * ENTRY)
    together = threading.Barrier(8)
    claims: list[int] = []
    futures: list[Future[np.ndarray]] = []

    def ask() -> None:
        together.wait()
        got, claimed = cache.claim([key(1)])
        futures.extend(got)
        claims.extend(claimed)
        if claimed:
            cache.settle(key(1), vector(4))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claims == [0]
    assert [future.result(10)[0] for future in futures] == [4] * 8
