"""The store that fails and waits on demand, so that what stands on a store can be tested against both."""

import threading

import pytest
from store_rows import Row, group, ordinals

from nextact_server.storage.faulty import FaultyStore
from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import Store, StoreClosedError, StoreError, StoreFailedError


def seen(store: Store, user: int = 0) -> int:
    return int(store.users(ordinals(user)).events_seen[0])


def test_it_is_a_store_that_lets_everything_through_by_default() -> None:
    store: Store = FaultyStore(MemoryStore())
    store.commit(group(1, Row(0, "a"))).result(timeout=0)
    assert seen(store) == 1
    assert store.durability == "memory"


def test_the_nth_commit_fails_and_with_it_all_behind_until_reopened() -> None:
    store = FaultyStore(MemoryStore())
    store.fail_commit(2, OSError("disk full"))
    futures = [store.commit(group(n, Row(0, f"m{n}"))) for n in range(4)]
    assert futures[0].exception(timeout=0) is None
    with pytest.raises(OSError, match="disk full"):
        futures[1].result(timeout=0)
    for behind in futures[2:]:
        with pytest.raises(StoreFailedError, match="disk full"):
            behind.result(timeout=0)
    assert seen(store) == 1
    store.reopen()
    store.commit(group(9, Row(0, "m1"))).result(timeout=0)
    assert seen(store) == 2


def test_held_commits_become_durable_one_by_one_and_in_order() -> None:
    store = FaultyStore(MemoryStore())
    store.hold()
    futures = [store.commit(group(n, Row(0, f"m{n}"))) for n in range(4)]
    assert store.held == 4
    assert [future.done() for future in futures] == [False] * 4
    store.release(1)
    assert [future.done() for future in futures] == [True, False, False, False]
    assert seen(store) == 1
    store.release()
    assert all(future.exception(timeout=0) is None for future in futures)
    assert store.commit(group(9, Row(0, "m9"))).done()
    assert seen(store) == 5


def test_a_held_commit_that_fails_takes_those_held_behind_it_along() -> None:
    store = FaultyStore(MemoryStore())
    store.hold()
    store.fail_commit(2)
    futures = [store.commit(group(n, Row(0, f"m{n}"))) for n in range(4)]
    store.release(2)
    errors = [future.exception(timeout=0) for future in futures]
    assert [type(error) for error in errors] == [type(None), StoreError, StoreFailedError, StoreFailedError]
    assert isinstance(store.commit(group(8, Row(0, "m8"))).exception(timeout=0), StoreFailedError)
    assert seen(store) == 1


def test_reopening_loses_what_was_held() -> None:
    store = FaultyStore(MemoryStore())
    store.hold()
    lost = store.commit(group(1, Row(0, "a")))
    store.reopen()
    assert isinstance(lost.exception(timeout=0), StoreFailedError)
    store.release()
    assert seen(store) == 0


def test_reopening_can_fail_too() -> None:
    store = FaultyStore(MemoryStore())
    store.fail_commit()
    store.commit(group(1, Row(0, "a")))
    store.fail_reopen(OSError("still full"))
    with pytest.raises(OSError, match="still full"):
        store.reopen()
    assert isinstance(store.commit(group(2, Row(0, "b"))).exception(timeout=0), StoreFailedError)
    store.reopen()
    assert store.commit(group(3, Row(0, "c"))).exception(timeout=0) is None


def test_a_callback_of_a_commit_may_commit_again() -> None:
    store = FaultyStore(MemoryStore())
    store.hold()
    nested = []
    first = store.commit(group(1, Row(0, "a")))
    first.add_done_callback(lambda _: nested.append(store.commit(group(2, Row(0, "b")))))
    store.release()
    assert nested[0].exception(timeout=0) is None
    assert seen(store) == 2


def test_a_test_can_wait_for_a_commit_to_arrive() -> None:
    store = FaultyStore(MemoryStore())
    store.hold()
    assert not store.await_held(1, timeout=0)
    other = threading.Thread(target=store.commit, args=(group(1, Row(0, "a")),))
    other.start()
    assert store.await_held(1, timeout=10)
    other.join()
    assert store.commits == 1


def test_closing_completes_what_is_held() -> None:
    store = FaultyStore(MemoryStore())
    store.hold()
    future = store.commit(group(1, Row(0, "a")))
    store.close()
    assert future.exception(timeout=0) is None
    assert isinstance(store.commit(group(2, Row(0, "b"))).exception(timeout=0), StoreClosedError)
