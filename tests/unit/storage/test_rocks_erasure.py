"""The end of what is known of a user: in every file of the data directory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rocks_stores import PATIENCE, bytes_of_files, committed, opened
from store_rows import Row, erasure, event_rows, group, message_keys, ordinals, user_key

from nextact_server.storage.rocks import RocksStore
from nextact_server.storage.seam import CommitGroup

HASH, SHARED = b"\x07" * 16, b"\x08" * 16
VECTOR = np.array([0.123, 0.456, 0.789], np.float32)


def fill(store: RocksStore) -> None:
    """User 0, whose traces are to vanish, between users 1 to 5."""
    for sequence in range(150):
        secret = Row(0, f"secret-message-{sequence}", f"secret-item-{sequence % 3}", text="secret-text", content=HASH)
        others = [
            Row(
                1 + at, f"kept-{sequence}-{at}", "kept-item", text="kept-text", content=SHARED if at == 1 else bytes(16)
            )
            for at in range(5)
        ]
        rows = event_rows([*others[:2], secret, *others[2:]])
        content = {HASH: VECTOR, SHARED: np.ones(3, np.float32)}
        assert committed(store, CommitGroup(sequence, rows, content=content)) is None
        if sequence == 70:
            store.save_states(
                ordinals(0, 1), np.ones(2, np.int64), np.ones(2, np.int64), {"h": np.full((2, 4), 0.777, np.float32)}
            )


TRACES = (
    b"secret",
    b"user-0",
    HASH,
    VECTOR.tobytes(),
    user_key(0).tobytes(),
    user_key(0)[:, :1].tobytes(),
    message_keys([(0, "secret-message-7")]).tobytes(),
)


def traces_in(directory: Path) -> list[tuple[str, bytes]]:
    return [(path.name, trace) for path, held in bytes_of_files(directory).items() for trace in TRACES if trace in held]


@pytest.mark.parametrize(
    "prepare", [lambda store: None, lambda store: store.compact(PATIENCE)], ids=["fresh", "compacted"]
)
def test_nothing_of_an_erased_user_is_in_any_file_after_the_purge(
    tmp_path: Path, prepare: Callable[[RocksStore], None]
) -> None:
    store = opened(tmp_path, compress=False, compact_events=10**6)
    fill(store)
    prepare(store)
    store._database.flush()
    store._database.sync()
    assert {trace for _, trace in traces_in(tmp_path)} == {b"secret", b"user-0", HASH, VECTOR.tobytes()}
    assert committed(store, CommitGroup(1000, erased=(erasure(0, suppress=True),))) is None
    assert store.erasures_pending() == 1
    assert store.purge(PATIENCE)
    assert store.erasures_pending() == 0
    assert traces_in(tmp_path) == []
    assert store.users(ordinals(0, 1)).events_seen.tolist() == [0, 150]
    assert store.load_states(ordinals(0, 1)).has.tolist() == [False, True]
    assert store.content_vector(HASH) is None
    assert store.content_vector(SHARED) is not None
    store.close()
    store = opened(tmp_path, compress=False)
    assert traces_in(tmp_path) == []
    assert store.suppressed(np.concatenate([user_key(0), user_key(1)])).tolist() == [True, False]
    assert len(store.history(1, None, 1000)) == 150
    store.close()


def test_no_user_key_of_others_can_tell_is_in_the_files_ever(tmp_path: Path) -> None:
    store = opened(tmp_path, compress=False)
    fill(store)
    store.compact(PATIENCE)
    store.close()
    held = b"".join(bytes_of_files(tmp_path).values())
    for user in range(6):
        assert user_key(user).tobytes() not in held
    assert message_keys([(1, "kept-0-0")]).tobytes() not in held


def test_bytes_are_purged_by_the_background_within_the_time_that_is_set(tmp_path: Path) -> None:
    store = opened(tmp_path, compress=False, purge_within_s=0.0)
    fill(store)
    assert committed(store, CommitGroup(1000, erased=(erasure(0),))) is None
    assert store.await_erasures(PATIENCE)
    assert traces_in(tmp_path) == []
    store.close()


def test_a_purge_that_a_crash_prevented_is_made_up_for(tmp_path: Path) -> None:
    store = opened(tmp_path, compress=False)
    fill(store)
    assert committed(store, CommitGroup(1000, erased=(erasure(0),))) is None
    store.compact(PATIENCE)
    store.close()
    store = opened(tmp_path, compress=False, purge_within_s=0.0)
    assert store.await_erasures(PATIENCE)
    assert traces_in(tmp_path) == []
    store.close()


def test_a_user_who_comes_back_after_an_erasure_is_a_new_one_whatever_is_compacted_when(tmp_path: Path) -> None:
    store = opened(tmp_path, compress=False)
    for step, compacted in enumerate([(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]):
        user, base = 10 + step, 10 * step
        one = np.ones(1, np.int64)
        assert committed(store, group(base, Row(user, "old", "x", at_us=50), Row(user, "older", at_us=40))) is None
        store.save_states(ordinals(user), one, one, {"h": np.ones((1, 2), np.float32)})
        assert 0 not in compacted or store.compact(PATIENCE)
        assert committed(store, CommitGroup(base + 1, erased=(erasure(user),))) is None
        assert 1 not in compacted or store.compact(PATIENCE)
        assert not store.load_states(ordinals(user)).has[0]
        assert committed(store, group(base + 2, Row(user, "new", "y", at_us=10))) is None
        assert store.save_states(ordinals(user), one, one, {"h": np.full((1, 2), 5, np.float32)}).all()
        assert 2 not in compacted or store.compact(PATIENCE)
        columns = store.users(ordinals(user))
        assert (columns.events_seen[0], columns.last_time_us[0]) == (1, 10)
        assert store.history(user, None, 9).columns["message_id"].to_pylist() == ["new"]
        pairs = [(user, "old"), (user, "older"), (user, "new")]
        assert store.message_status(message_keys(pairs)).tolist() == [0, 0, 17]
        assert store.load_states(ordinals(user)).states["h"].tolist() == [[5, 5]]
        assert len(store.seen_items(user)[0]) == 1
    store.close()
