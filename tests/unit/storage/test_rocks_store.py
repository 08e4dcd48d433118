"""What the durable store promises beyond the in-memory one: shared syncs, compaction that nobody sees, windows."""

import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from rocks_stores import PATIENCE, committed, opened
from store_rows import DAY_US, Row, erasure, event_rows, group, message_keys, ordinals

from nextact_server.storage.rocks import RocksStore
from nextact_server.storage.rocks_database import Batch, Database
from nextact_server.storage.seam import CommitGroup, InvalidGroupError, ItemRecord, Store, StoreError


class Gate:
    """Lets writes through one by one, and counts them."""

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)
        self.syncs: list[bool] = []

    def write(self, database: Database, batch: Batch, sync: bool) -> None:
        self.arrived.release()
        assert self.open.acquire(timeout=PATIENCE)
        self.syncs.append(sync)
        database.write(batch, sync=sync)


def test_it_is_a_store(tmp_path: Path) -> None:
    store: Store = opened(tmp_path)
    assert store.durability == "sync"
    store.close()
    store.close()


def test_groups_that_wait_for_the_disk_share_one_write_and_are_acknowledged_in_order(tmp_path: Path) -> None:
    gate = Gate()
    store = opened(tmp_path, gate.write)
    order: list[int] = []
    futures: list[Future[None]] = []
    for sequence in range(50):
        future = store.commit(group(sequence, Row(sequence % 3, f"m{sequence}")))
        future.add_done_callback(lambda _, sequence=sequence: order.append(sequence))
        futures.append(future)
        if not sequence:
            assert gate.arrived.acquire(timeout=PATIENCE)
    assert not any(future.done() for future in futures)
    assert store.users(ordinals(0)).events_seen[0] == 0
    gate.open.release(2)
    futures[-1].result(PATIENCE)
    assert gate.syncs == [True, True]
    assert order == sorted(order)
    assert store.users(ordinals(0, 1, 2)).events_seen.tolist() == [17, 17, 16]
    store.close()


def test_behind_an_erasure_that_waits_for_the_disk_the_same_messages_are_new(tmp_path: Path) -> None:
    gate = Gate()
    store = opened(tmp_path, gate.write)
    futures = [store.commit(group(0, Row(0, "first")))]
    assert gate.arrived.acquire(timeout=PATIENCE)
    for sequence in range(1, 10, 3):
        futures.append(store.commit(group(sequence, Row(0, "a"), Row(1, f"kept{sequence}"))))
        futures.append(store.commit(CommitGroup(sequence + 1, erased=(erasure(0),))))
        futures.append(store.commit(group(sequence + 2, Row(0, "first"))))
    gate.open.release(100)
    assert [future.exception(PATIENCE) for future in futures] == [None] * 10
    assert store.history(0, None, 9).columns["message_id"].to_pylist() == ["first"]
    assert store.users(ordinals(0, 1)).events_seen.tolist() == [1, 3]
    store.close()


@pytest.mark.parametrize("durability", ["interval", "off"])
def test_without_a_sync_a_group_survives_the_process(tmp_path: Path, durability: str) -> None:
    gate = Gate()
    gate.open.release(100)
    store = opened(tmp_path, gate.write, durability=durability, sync_interval_s=0.01)
    assert store.durability == durability
    assert committed(store, group(1, Row(0, "a"))) is None
    assert gate.syncs == [False]
    store.close()
    store = opened(tmp_path)
    assert store.users(ordinals(0)).events_seen[0] == 1
    store.close()


def test_a_copy_of_a_message_is_refused_wherever_the_first_one_lies(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert committed(store, group(0, Row(0, "on disk"))) is None
    assert store.compact(PATIENCE)
    assert committed(store, group(1, Row(0, "in memory"))) is None
    for at, name in enumerate(["on disk", "in memory"]):
        assert isinstance(committed(store, group(10 + at, Row(0, "new"), Row(0, name))), InvalidGroupError)
        store.reopen()
    new = store.message_status(message_keys([(0, "new")]))
    assert new.tolist() == [0]
    for at in range(2):  # asked for before, so that the commit does not look again
        assert (committed(store, group(20 + at, Row(0, "new"))) is None) == (at == 0)
    store.reopen()
    assert store.compact(PATIENCE)
    assert isinstance(committed(store, group(30, Row(0, "new"))), InvalidGroupError)
    store.close()


def test_histories_longer_than_a_row_come_back_page_by_page_and_piece_by_piece(tmp_path: Path) -> None:
    store = opened(tmp_path, compact_events=100)
    names = []
    for sequence in range(40):
        rows = [Row(at % 2, f"{sequence}/{at}", f"item{at}", applied=at % 4 != 0, text="ü" * at) for at in range(25)]
        names += [row.message for row in rows if row.user == 0]
        assert committed(store, group(sequence, *rows)) is None
        if sequence == 30:
            assert store.compact(PATIENCE)
    assert committed(store, group(100, *(Row(0, f"long{at}") for at in range(1000)))) is None
    assert store.compact(PATIENCE)
    names += [f"long{at}" for at in range(1000)]
    before, told = None, []
    while True:
        page = store.history(0, before, 77)
        told += page.columns["message_id"].to_pylist()
        before = page.next_before
        if before is None:
            break
    assert told == names[::-1]
    seen = int(store.users(ordinals(0)).events_seen[0])
    assert len(store.replay(0, seen - 1005)) == 1005
    _, position = store.seen_items(0)
    assert committed(store, group(200, Row(0, "last", "item"))) is None
    assert store.compact(PATIENCE)
    assert len(store.seen_items(0, position)[0]) == 1
    store.close()


def test_message_ids_are_remembered_for_the_larger_of_time_and_number(tmp_path: Path) -> None:
    store = opened(tmp_path, message_id_window_s=86_400.0, message_ids_per_user=3)
    old = [Row(user, f"{user}/{at}", received_us=at) for user in (0, 1) for at in range(5)]
    assert committed(store, group(1, *old)) is None
    assert store.compact(PATIENCE)
    young = [Row(0, f"young{at}", received_us=2 * DAY_US + at) for at in range(2)]
    assert committed(store, group(2, *young)) is None
    assert store.compact(PATIENCE)
    keys = message_keys([(row.user, row.message) for row in old + young])
    known = (store.message_status(keys) != 0).tolist()
    assert known == [False] * 4 + [True] + [True] * 5 + [True] * 2
    assert committed(store, group(3, Row(0, "0/0", received_us=3 * DAY_US))) is None
    assert len(store.history(0, None, 100)) == 8
    store.close()


def test_a_restart_reads_what_was_not_compacted_and_nothing_else(tmp_path: Path) -> None:
    store = opened(tmp_path, compact_events=10**6)
    items = tuple(ItemRecord(f"i{at}", text="t", content_hash=bytes([at + 1]) * 16) for at in range(3))
    vector = np.arange(4, dtype=np.float32)
    content = {bytes([1]) * 16: vector}
    assert committed(store, CommitGroup(1, event_rows([Row(0, "a")]), items=items, content=content)) is None
    assert store.compact(PATIENCE)
    assert committed(store, group(2, Row(1, "b", text="ß"), Row(0, "c"))) is None
    assert committed(store, CommitGroup(3, deleted_items=("i1",))) is None
    store.close()
    store = opened(tmp_path)
    assert store.uncompacted_events == 2
    assert [item.item_id for item in store.items("", 9)] == ["i0", "i2"]
    assert np.array_equal(store.content_vector(bytes([1]) * 16), vector)  # type: ignore[arg-type]
    assert store.history(1, None, 1).columns["text"].to_pylist() == ["ß"]
    wrong = CommitGroup(4, items=(ItemRecord("x", content_hash=b"x" * 16, vector=np.ones(5, np.float32)),))
    assert isinstance(committed(store, wrong), InvalidGroupError)
    store.close()


def test_commits_wait_while_too_much_is_not_compacted(tmp_path: Path) -> None:
    store = opened(tmp_path, most_uncompacted_events=100, compact_events=30)
    for sequence in range(60):
        assert committed(store, group(sequence, *(Row(at, f"{sequence}/{at}") for at in range(20)))) is None
        assert store.uncompacted_events <= 120
    assert store.users(ordinals(3)).events_seen[0] == 60
    store.close()


def test_a_compaction_that_fails_is_found_by_the_next_commit_and_done_again_after_reopening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    assert committed(store, group(1, Row(0, "a"), Row(1, "b"))) is None
    write, faults = Database.write, iter([False, True])

    def fail_in_between(self: Database, batch: Batch, *, sync: bool = False) -> None:
        if next(faults, False):
            raise StoreError("no space left")
        write(self, batch, sync=sync)

    monkeypatch.setattr(Database, "write", fail_in_between)
    assert not store.compact(PATIENCE)
    assert isinstance(committed(store, group(2, Row(0, "c"))), StoreError)
    store.reopen()
    assert committed(store, group(3, Row(0, "c"))) is None
    assert store.compact(PATIENCE)
    assert store.users(ordinals(0, 1)).events_seen.tolist() == [2, 1]
    assert store.history(0, None, 9).columns["message_id"].to_pylist() == ["c", "a"]
    store.close()


def test_readers_beside_commits_compactions_and_reopenings_see_whole_groups_only(tmp_path: Path) -> None:
    store = opened(tmp_path, compact_events=20)
    size, wrong, done = 7, [], threading.Event()

    def read() -> None:
        while not done.is_set():
            page, (keys, _) = store.history(0, None, 10**6), store.seen_items(0)
            replay, columns = store.replay(0, 0), store.users(ordinals(0))
            counts = (len(page), len(keys), len(replay), int(columns.events_seen[0]))
            texts = page.columns["text"].to_pylist()
            if any(count % size for count in counts) or texts != [str(t) for t in page.event_time_us.tolist()]:
                wrong.append((counts, texts))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for sequence in range(150):
            base = sequence * size
            rows = [Row(0, f"{base + i}", "item", at_us=base + i, text=str(base + i)) for i in range(size)]
            assert committed(store, group(sequence, *rows)) is None
            if sequence % 50 == 49:
                store._commits.fail(StoreError("for the test"))
                store.reopen()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    store.close()


def test_old_events_go_once_the_state_has_seen_them_and_the_count_of_a_lifetime_stays(tmp_path: Path) -> None:
    store: RocksStore = opened(tmp_path)
    shared, own = b"\x01" * 16, b"\x02" * 16
    rows = [Row(0, f"m{at}", f"i{at}", at, content=own if at < 3 else shared, received_us=at) for at in range(300)]
    rows[1] = Row(0, "m1", "i1", 1, 3, False, own, 1)
    content = {shared: np.ones(3, np.float32), own: np.ones(3, np.float32)}
    assert committed(store, CommitGroup(1, event_rows(rows), content=content)) is None
    assert store.compact(PATIENCE)
    assert store.trim(0, 200, model="next/1") == 0
    seen = np.array([150])
    store.save_states(ordinals(0), seen, seen, {"h": np.ones((1, 2), np.float32)}, model="next/1")
    assert store.trim(0, 10, model="next/1") == 10
    assert store.trim(0, 200, model="next/1") == 141
    assert store.dropped_events(0) == 151
    columns = store.users(ordinals(0))
    assert (columns.events_seen[0], columns.last_time_us[0]) == (299, 299)
    assert len(store.replay(0, 150)) == 149
    told = store.history(0, None, 1000)
    assert (len(told), told.next_before) == (149, None)
    assert told.columns["message_id"].to_pylist() == [f"m{at}" for at in range(299, 150, -1)]
    assert store.message_status(message_keys([(0, "m0"), (0, "m151")])).tolist() == [0, 17]
    assert committed(store, group(2, Row(0, "next"))) is None
    assert store.compact(PATIENCE)
    assert store.content_vector(own) is None
    assert store.content_vector(shared) is not None
    assert len(store.history(0, None, 1000)) == 150
    store.close()


def test_all_users_can_be_walked_through(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert committed(store, group(1, *(Row(at, f"m{at}", at_us=at) for at in range(25)))) is None
    assert store.compact(PATIENCE)
    users, cursor = store.known_users(limit=10)
    while cursor:
        more, cursor = store.known_users(cursor, limit=10)
        users += more
    assert sorted(int(user.user_id.removeprefix("user-")) for user in users) == list(range(25))
    assert all(user.events_seen == 1 and f"user-{user.last_time_us}" == user.user_id for user in users)
    store.close()
