"""What the in-memory store promises beyond agreeing with a model: whole groups, refusal, erasure, parallel reads."""

import dataclasses
import gc
import threading

import numpy as np
import pyarrow as pa
import pytest
from store_rows import Row, erasure, event_rows, group, message_keys, ordinals, user_key

from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import (
    ACCEPTED,
    APPLIED_BIT,
    HISTORY_SCHEMA,
    CommitGroup,
    InvalidGroupError,
    ItemRecord,
    Store,
    StoreClosedError,
    StoreError,
    StoreFailedError,
)

HASH = b"\x07" * 16


def committed(store: Store, wanted: CommitGroup) -> BaseException | None:
    return store.commit(wanted).exception(timeout=0)


def bad_groups() -> dict[str, CommitGroup]:
    good = event_rows([Row(0, "m1"), Row(1, "m2")])
    vector = np.ones(3, np.float32)
    return {
        "sequence 1 is not above 1": CommitGroup(1),
        "events.gap_us has shape": CommitGroup(2, dataclasses.replace(good, gap_us=np.zeros(3, np.int64))),
        "HISTORY_SCHEMA": CommitGroup(2, dataclasses.replace(good, columns=good.columns.select(["message_id"]))),
        "0 or above": CommitGroup(2, dataclasses.replace(good, user=ordinals(0, -1))),
        "ACCEPTED and LATE": CommitGroup(2, dataclasses.replace(good, status=np.array([ACCEPTED, 2], np.int8))),
        "message twice": group(2, Row(0, "m1"), Row(0, "m1")),
        "recorded already": group(2, Row(0, "m1"), Row(0, "before")),
        "both erased and recorded": CommitGroup(2, good, erased=(erasure(1),)),
        "both upserted and deleted": CommitGroup(2, good, items=(ItemRecord("a"),), deleted_items=("a",)),
        "not of 16 bytes": CommitGroup(2, good, content={b"short": vector}),
        "hash None": CommitGroup(2, good, items=(ItemRecord("a", vector=vector),)),
        "item 'a' is not of 16": CommitGroup(2, good, items=(ItemRecord("a", content_hash=b"short"),)),
        r"float32 of shape \(3,\)": CommitGroup(2, good, content={HASH: np.ones(4, np.float32)}),
    }


@pytest.mark.parametrize("reason", bad_groups())
def test_a_bad_group_changes_nothing_and_blocks_what_comes_behind_until_reopened(reason: str) -> None:
    store = MemoryStore()
    first = CommitGroup(1, event_rows([Row(0, "before", content=HASH)]), content={HASH: np.ones(3, np.float32)})
    assert committed(store, first) is None
    error = committed(store, bad_groups()[reason])
    assert isinstance(error, InvalidGroupError)
    with pytest.raises(InvalidGroupError, match=reason):
        raise error
    assert store.users(ordinals(0, 1)).events_seen.tolist() == [1, 0]
    assert store.message_status(message_keys([(0, "m1"), (1, "m2")])).tolist() == [0, 0]
    assert list(store.all_items()) == []
    assert isinstance(committed(store, group(3, Row(2, "behind"))), StoreFailedError)
    store.reopen()
    assert committed(store, group(3, Row(0, "m1"), Row(2, "behind"))) is None
    assert store.users(ordinals(0, 1, 2)).events_seen.tolist() == [2, 0, 1]


def test_a_closed_store_answers_nothing() -> None:
    store = MemoryStore()
    store.close()
    assert isinstance(committed(store, group(1, Row(0, "m"))), StoreClosedError)
    for call in (
        lambda: store.users(ordinals(0)),
        lambda: store.history(0, None, 1),
        lambda: store.item("a"),
        store.reopen,
    ):
        with pytest.raises(StoreClosedError):
            call()


def test_a_group_of_nothing_is_fine() -> None:
    store = MemoryStore()
    assert committed(store, CommitGroup(1)) is None
    assert committed(store, CommitGroup(2, event_rows([]))) is None
    assert len(store.history(0, None, 10)) == 0
    assert store.history(0, None, 10).columns.schema.equals(HISTORY_SCHEMA)
    assert store.seen_items(0)[1] == -1


def test_rows_are_copied_out_of_the_message_they_came_in() -> None:
    store = MemoryStore()
    columns = event_rows([Row(0, f"m{i}", text="x") for i in range(100)])
    wide = columns.columns.append_column("image", pa.array([b"x" * 100_000] * 100))
    message = wide.serialize()
    received = pa.ipc.read_record_batch(message, wide.schema).select(HISTORY_SCHEMA.names)
    before = pa.total_allocated_bytes()
    assert committed(store, CommitGroup(1, dataclasses.replace(columns, columns=received))) is None
    del received, message, wide
    gc.collect()
    assert pa.total_allocated_bytes() < before - 9_000_000
    assert store.history(0, None, 100).columns["text"].to_pylist() == ["x"] * 100


def test_nothing_of_an_erased_user_is_left_in_memory_and_the_suppression_list_holds_a_key_only() -> None:
    store = MemoryStore()
    for sequence in range(60):
        row = Row(0, f"secret-message-{sequence}", f"secret-item-{sequence % 3}", text="secret-text", content=HASH)
        other = Row(1, f"kept-{sequence}", "kept-item", text="kept-text")
        rows = event_rows([other, row] if sequence % 3 else [row])
        assert committed(store, CommitGroup(sequence, rows, content={HASH: np.full(3, 7, np.float32)})) is None
    store.save_states(
        ordinals(0, 1), np.ones(2, np.int64), np.ones(2, np.int64), {"h": np.full((2, 4), 0.123, np.float32)}
    )
    message = message_keys([(0, "secret-message-7")])
    assert committed(store, CommitGroup(100, erased=(erasure(0, suppress=True),))) is None

    held = b"".join(everything_in(store, set()))
    assert b"kept-text" in held
    for trace in (b"secret", message.tobytes(), message[:, :1].tobytes(), HASH, np.full(3, 7, np.float32).tobytes()):
        assert trace not in held
    assert held.count(user_key(0)[:, :1].tobytes()) == 1
    assert store.load_states(ordinals(0, 1)).has.tolist() == [False, True]
    assert store.suppressed(np.concatenate([user_key(0), user_key(1)])).tolist() == [True, False]
    assert len(store.history(1, None, 100)) == 40


def test_a_user_erased_without_suppression_starts_afresh() -> None:
    store = MemoryStore()
    assert committed(store, group(1, Row(0, "m", at_us=50))) is None
    assert committed(store, CommitGroup(2, erased=(erasure(0),))) is None
    assert committed(store, group(3, Row(0, "m", at_us=10))) is None
    columns = store.users(ordinals(0))
    assert (columns.events_seen[0], columns.last_time_us[0]) == (1, 10)
    assert store.history(0, None, 9).columns["message_id"].to_pylist() == ["m"]


def test_erasure_gives_memory_back() -> None:
    store = MemoryStore()
    for sequence in range(30):
        rows = [Row(sequence, f"m{i}", text="y" * 500) for i in range(400)]
        assert committed(store, group(sequence, *rows)) is None
    full = sum(map(len, everything_in(store._history, set())))
    for user in range(29):
        assert committed(store, CommitGroup(100 + user, erased=(erasure(user),))) is None
    assert sum(map(len, everything_in(store._history, set()))) < full / 10


def test_a_cursor_that_is_not_of_this_user_gives_an_empty_last_page() -> None:
    store = MemoryStore()
    assert committed(store, group(1, Row(0, "a"), Row(1, "b"), Row(0, "c"))) is None
    for cursor in (1, -5, 3, 10**15):
        page = store.history(0, cursor, 10)
        assert (len(page), page.next_before) == (0, None)


def test_a_duplicate_of_a_late_unapplied_event_tells_its_outcome() -> None:
    store = MemoryStore()
    assert committed(store, group(1, Row(0, "a"), Row(0, "b", status=3, applied=False))) is None
    outcomes = store.message_status(message_keys([(0, "a"), (0, "b"), (1, "a")]))
    assert outcomes.tolist() == [ACCEPTED | APPLIED_BIT, 3, 0]


def test_states_are_kept_apart_by_model_and_refused_in_another_shape() -> None:
    store = MemoryStore()
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    assert committed(store, group(1, Row(0, "a"))) is None
    store.save_states(ordinals(0), one, one, {"h": np.full((1, 2), 1, np.float32)}, model="next/1")
    store.save_states(ordinals(0), zero, zero, {"h": np.full((1, 3), 2, np.float32)}, model="next/2")
    assert store.load_states(ordinals(0), model="next/1").states["h"].tolist() == [[1, 1]]
    assert store.load_states(ordinals(0), model="next/2").states["h"].tolist() == [[2, 2, 2]]
    assert not store.load_states(ordinals(0), model="next/3").has[0]
    with pytest.raises(StoreError, match="shapes"):
        store.save_states(ordinals(0), one, one, {"h": np.zeros((1, 5), np.float32)}, model="next/1")


def test_readers_beside_commits_see_whole_groups_only() -> None:
    store = MemoryStore()
    rounds, size = 150, 7
    done, wrong = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            page, (keys, _) = store.history(0, None, 50), store.seen_items(0)
            replay, columns = store.replay(0, 0), store.users(ordinals(0))
            counts = (len(keys), len(replay), int(columns.events_seen[0]))
            texts = page.columns["text"].to_pylist()
            if any(count % size for count in counts) or texts != [str(t) for t in page.event_time_us.tolist()]:
                wrong.append((counts, texts))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sequence in range(rounds):
        base = sequence * size
        rows = [Row(0, f"{base + i}", "item", at_us=base + i, text=str(base + i)) for i in range(size)]
        assert committed(store, group(2 * sequence, *rows)) is None
        other = Row(1 + sequence % 5, f"o{sequence}")
        assert committed(store, group(2 * sequence + 1, other)) is None
        if sequence % 10 == 9:
            assert committed(store, CommitGroup(2 * sequence + 1, erased=(erasure(other.user),))) is not None
            store.reopen()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def everything_in(value: object, met: set[int]) -> list[bytes]:
    """The bytes of all that an object holds, in arrays, buffers, strings and containers."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    if id(value) in met or callable(value):
        return []
    met.add(id(value))
    if isinstance(value, np.ndarray):
        return [value.tobytes()]
    if isinstance(value, pa.Buffer):
        return [value.to_pybytes()]
    if isinstance(value, str | bytes):
        return [value.encode() if isinstance(value, str) else value]
    if isinstance(value, int):
        return [(value & ((1 << 64) - 1)).to_bytes(8, "little")]
    if isinstance(value, dict):
        return [found for pair in value.items() for part in pair for found in everything_in(part, met)]
    if isinstance(value, list | tuple | set):
        return [found for part in value for found in everything_in(part, met)]
    names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
    return [found for name in names for found in everything_in(getattr(value, name, None), met)]
