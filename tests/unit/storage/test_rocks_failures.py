"""What the store does when the disk does not: nothing by halves, and on again once it is there."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rocks_stores import PATIENCE, committed, opened
from store_rows import Row, erasure, group, message_keys, ordinals

from nextact_server.storage.rocks import RocksStore
from nextact_server.storage.rocks_database import Batch, Database
from nextact_server.storage.rocks_schema import MIGRATIONS, VERSION, bring_up_to_date, number_to_bytes
from nextact_server.storage.seam import CommitGroup, StoreError, StoreFailedError


def seen(store: RocksStore, user: int = 0) -> int:
    return int(store.users(ordinals(user)).events_seen[0])


def read_all(data_dir: Path) -> None:
    store = opened(data_dir)
    try:
        store.history(0, None, 100)
    finally:
        store.close()


def test_a_failed_write_fails_everyone_behind_it_until_reopened(tmp_path: Path) -> None:
    broken = []

    def write(database: Database, batch: Batch, sync: bool) -> None:
        if broken:
            raise StoreError("no space left")
        database.write(batch, sync=sync)

    store = opened(tmp_path, write)
    assert committed(store, group(1, Row(0, "a"))) is None
    broken.append(True)
    error = committed(store, group(2, Row(0, "b")))
    assert isinstance(error, StoreError)
    assert not isinstance(error, StoreFailedError)
    for sequence in (3, 4):
        assert isinstance(committed(store, group(sequence, Row(0, f"c{sequence}"))), StoreFailedError)
    assert seen(store) == 1
    assert store.save_states(
        ordinals(0), np.ones(1, np.int64), np.ones(1, np.int64), {"h": np.ones((1, 2), np.float32)}
    )
    broken.clear()
    store.reopen()
    assert committed(store, group(5, Row(0, "b"))) is None
    assert seen(store) == 2
    store.close()


def test_an_erasure_that_failed_leaves_the_user_whole(tmp_path: Path) -> None:
    faults = iter([False, True, False])

    def write(database: Database, batch: Batch, sync: bool) -> None:
        if next(faults):
            raise StoreError("no space left")
        database.write(batch, sync=sync)

    store = opened(tmp_path, write)
    assert committed(store, group(1, Row(0, "a", text="kept"))) is None
    assert committed(store, CommitGroup(2, erased=(erasure(0, True),))) is not None
    store.reopen()
    assert seen(store) == 1
    assert store.message_status(message_keys([(0, "a")]))[0]
    store.close()


def test_a_commit_behind_a_failed_one_in_the_same_batch_is_not_kept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = store.commit(group(1, Row(0, "a")))
    bad = store.commit(group(1, Row(0, "b")))  # the number of the group before
    behind = store.commit(group(2, Row(0, "c")))
    assert first.exception(PATIENCE) is None
    assert "not above" in str(bad.exception(PATIENCE))
    assert isinstance(behind.exception(PATIENCE), StoreFailedError)
    store.reopen()
    assert store.message_status(message_keys([(0, "a"), (0, "b"), (0, "c")])).tolist() == [17, 0, 0]
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 48 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room_again(small_disk: Path) -> None:
    store = opened(small_disk / "data")
    ballast = small_disk / "ballast"
    kept: list[str] = []
    lost = None
    for sequence in range(10_000):
        if sequence == 20:
            ballast.write_bytes(bytes(38 << 20))
        text = os.urandom(100_000).hex()
        lost = committed(store, group(sequence, Row(sequence % 3, f"m{sequence}", text=text)))
        if lost is not None:
            break
        kept.append(f"m{sequence}")
    assert len(kept) > 20
    assert "No space left" in str(lost)
    assert "disk is full" in str(lost)
    pairs = [(int(name[1:]) % 3, name) for name in kept]
    assert store.message_status(message_keys(pairs)).all()
    ballast.unlink()
    store.reopen()
    assert store.message_status(message_keys(pairs)).all()
    again = f"m{len(kept)}"
    assert not store.message_status(message_keys([(len(kept) % 3, again)]))[0]
    assert committed(store, group(20_000, Row(len(kept) % 3, again))) is None
    assert sum(seen(store, user) for user in range(3)) == len(kept) + 1
    assert store.compact(PATIENCE)
    assert sum(len(store.history(user, None, 10**5)) for user in range(3)) == len(kept) + 1
    store.close()


def test_a_disk_that_became_read_only_refuses_and_comes_back(small_disk: Path) -> None:
    store = opened(small_disk / "data")
    assert committed(store, group(1, Row(0, "a"))) is None
    # An open file keeps a file system from becoming read-only: let the store meet it while it opens.
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match=str(small_disk)):
        opened(small_disk / "data")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    store = opened(small_disk / "data")
    assert seen(store) == 1
    store.close()


def test_a_store_in_use_is_refused_by_name(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreError, match=rf"{tmp_path / 'store'} is in use by another process"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for sequence in range(20):
        assert (
            committed(store, group(sequence, *(Row(at, f"m{sequence}-{at}", text="x" * 99) for at in range(9)))) is None
        )
    assert store.purge(PATIENCE)
    store.close()
    for table in (tmp_path / "store").glob("*.sst"):
        whole = bytearray(table.read_bytes())
        whole[: len(whole) // 2] = os.urandom(len(whole) // 2)
        table.write_bytes(whole)
    with pytest.raises(StoreError, match=r"store is damaged \(.*restore a backup"):
        read_all(tmp_path)


def test_a_missing_secret_is_missed(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "store.key").unlink()
    with pytest.raises(StoreError, match=r"store\.key is missing"):
        opened(tmp_path)


def test_the_secret_is_its_owners_only(tmp_path: Path) -> None:
    opened(tmp_path).close()
    assert (tmp_path / "store.key").stat().st_mode & 0o777 == 0o600


def test_a_newer_schema_is_refused_and_an_older_one_migrated_step_by_step(tmp_path: Path) -> None:
    opened(tmp_path).close()
    database = Database(tmp_path / "store", cache_bytes=1 << 20, write_buffer_bytes=1 << 20)
    database.open()
    with pytest.raises(StoreError, match="no migration leads from 1 to 2"):
        bring_up_to_date(database, 3)
    steps = []
    bring_up_to_date(database, 3, {1: lambda _: steps.append(1), 2: lambda _: steps.append(2)})
    bring_up_to_date(database, 3, {})
    assert steps == [1, 2]
    assert MIGRATIONS == {}
    batch = database.batch()
    batch.put("meta", VERSION, number_to_bytes(99))
    database.write(batch)
    del batch
    database.let_go()
    with pytest.raises(StoreError, match=r"has schema 99, this server knows schemas up to 1; run a newer"):
        opened(tmp_path)
