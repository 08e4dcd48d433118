"""Backups, the way back, and exports: nobody who was erased returns with them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rocks_stores import PATIENCE, committed, opened
from store_rows import Row, erasure, group, message_keys, ordinals, user_key

from nextact_server.storage.rocks_backup import restore
from nextact_server.storage.rocks_export import EXPORT_SCHEMA
from nextact_server.storage.seam import CommitGroup, StoreError


def test_a_restored_backup_is_the_store_of_that_moment_without_those_erased_since(tmp_path: Path) -> None:
    live, copy = tmp_path / "live", tmp_path / "backup"
    store = opened(live)
    assert committed(store, group(1, *(Row(user, f"m{user}") for user in range(5)))) is None
    assert committed(store, CommitGroup(2, erased=(erasure(4),))) is None
    assert committed(store, group(3, Row(4, "again"))) is None
    store.backup(copy)
    with pytest.raises(StoreError, match="is there already"):
        store.backup(copy)
    assert committed(store, group(4, Row(0, "lost"))) is None
    assert committed(store, CommitGroup(5, erased=(erasure(1), erasure(2, suppress=True)))) is None
    store.close()
    with pytest.raises(StoreError, match="is in the way"):
        restore(copy, live)
    (live / "store").rename(tmp_path / "old")
    assert restore(copy, live) == 2
    store = opened(live)
    assert store.users(ordinals(0, 1, 2, 3, 4)).events_seen.tolist() == [1, 0, 0, 1, 1]
    keys = message_keys([(0, "m0"), (0, "lost"), (1, "m1"), (4, "m4"), (4, "again")])
    assert store.message_status(keys).tolist() == [17, 0, 0, 0, 17]
    assert store.suppressed(np.concatenate([user_key(user) for user in (1, 2)])).tolist() == [False, True]
    assert store.erasures_pending() >= 2
    assert committed(store, group(1, Row(1, "m1"))) is None
    store.close()
    store = opened(live)
    assert store.users(ordinals(1)).events_seen[0] == 1
    store.close()


def test_a_backup_can_be_restored_elsewhere(tmp_path: Path) -> None:
    store = opened(tmp_path / "live")
    assert committed(store, group(1, Row(0, "a"))) is None
    store.backup(tmp_path / "backup")
    assert restore(tmp_path / "backup", tmp_path / "other") == 0
    other = opened(tmp_path / "other")
    assert other.history(0, None, 9).columns["message_id"].to_pylist() == ["a"]
    other.close()
    store.close()
    with pytest.raises(StoreError, match="is no backup"):
        restore(tmp_path / "live", tmp_path / "third")


def test_an_export_holds_everything_since_a_time_and_nobody_erased(tmp_path: Path) -> None:
    store = opened(tmp_path)
    rows = [Row(at % 7, f"m{at}", f"i{at}", at_us=at, received_us=at, text="ü") for at in range(700)]
    for start in range(0, 700, 70):
        assert committed(store, group(start, *rows[start : start + 70])) is None
    assert committed(store, CommitGroup(1000, erased=(erasure(3),))) is None
    whole = pa.Table.from_batches(store.export(events=50), EXPORT_SCHEMA)
    kept = [row for row in rows if row.user != 3]
    assert sorted(whole["message_id"].to_pylist()) == sorted(row.message for row in kept)
    assert [field.name for field in whole.schema] == [
        "message_id", "user_id", "anonymous_id", "action", "item_id", "session_id", "text", "properties",
        "event_time", "sent_at",
    ]  # fmt: skip
    of_one = whole.filter(pa.compute.equal(whole["user_id"], "user-5"))  # type: ignore[attr-defined]
    assert of_one["message_id"].to_pylist() == [row.message for row in rows if row.user == 5]
    assert of_one["event_time"].cast(pa.int64()).to_pylist() == [row.at_us for row in rows if row.user == 5]
    assert whole["sent_at"].null_count == len(whole)
    late = pa.Table.from_batches(store.export(since_us=600), EXPORT_SCHEMA)
    assert sorted(late["message_id"].to_pylist()) == sorted(row.message for row in kept if row.received_us >= 600)
    assert store.compact(PATIENCE)
    store.close()
