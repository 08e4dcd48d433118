"""EventBatch: columns of many messages, cut and joined without a change."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from nextact_server.events.batch import MISSING_TIME, EventBatch, concatenate


def batch(*users: str, **columns: object) -> EventBatch:
    return EventBatch(
        size=len(users),
        event_time=np.arange(len(users), dtype=np.int64),
        user_id=pa.array(users, pa.string()),
        **columns,
    )


def as_lists(whole: EventBatch) -> dict[str, list[object]]:
    return {
        name: column.tolist() if isinstance(column, np.ndarray) else column.to_pylist()
        for name, column in whole.columns()
    }


def test_only_columns_that_are_there_are_told() -> None:
    assert [name for name, _ in batch("a", image=pa.array([b"x"])).columns()] == ["event_time", "user_id", "image"]


def test_a_slice_holds_its_events_of_every_column() -> None:
    whole = batch("a", "b", "c", sent_at=np.array([7, 8, 9]), image=pa.array([b"x", None, b"z"]))
    part = whole.slice(1, 3)
    assert part.size == 2
    assert as_lists(part) == {"event_time": [1, 2], "sent_at": [8, 9], "user_id": ["b", "c"], "image": [None, b"z"]}
    assert whole.slice(2, 2).size == 0


def test_joined_batches_hold_all_events_with_nothing_where_a_batch_had_no_column() -> None:
    first = batch("a", item_id=pa.array(["i"]))
    second = batch("b", "c", sent_at=np.array([1, 2]), properties=pa.array([b"p", b""]))
    assert as_lists(concatenate([first, second])) == {
        "event_time": [0, 0, 1],
        "sent_at": [MISSING_TIME, 1, 2],
        "user_id": ["a", "b", "c"],
        "item_id": ["i", None, None],
        "properties": [None, b"p", b""],
    }


def test_a_single_batch_joined_is_itself() -> None:
    only = batch("a")
    assert concatenate([only]) is only


def test_joining_what_was_sliced_gives_the_whole() -> None:
    whole = batch("a", "b", "c", item_id=pa.array(["x", None, "z"]))
    assert as_lists(concatenate([whole.slice(0, 1), whole.slice(1, 3)])) == as_lists(whole)
    assert as_lists(concatenate([whole.slice(0, 0), replace(whole)])) == as_lists(whole)
