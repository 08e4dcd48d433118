"""Rows for the model and for the store, cut out of a batch."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_house import Asked, Sent, arrival_of

from nextact_server.events.status import Status, is_recorded
from nextact_server.sequence.merge import merge
from nextact_server.sequence.records import contents, repeated, step_rows


@given(
    keys=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_repetition_is_any_later_row_of_the_same_key(keys: list[tuple[int, int]], data: st.DataObject) -> None:
    rows = [row for row in range(len(keys)) if data.draw(st.booleans())]
    first: dict[tuple[int, int], int] = {}
    wanted = {}
    for row in rows:
        if keys[row] in first:
            wanted[row] = first[keys[row]]
        else:
            first[keys[row]] = row
    repeats, firsts = repeated(np.array(keys, np.uint64).reshape(-1, 2), np.array(rows, np.int64))
    assert dict(zip(repeats.tolist(), firsts.tolist(), strict=True)) == wanted


@given(
    shown=st.lists(st.one_of(st.none(), st.integers(1, 4)), min_size=1, max_size=8),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_rows_of_a_step_keep_their_own_content(shown: list[int | None], data: st.DataObject) -> None:
    merged = merge([arrival_of([Asked(tuple(Sent("a", content=seed) for seed in shown))])], [[True]])
    rows = np.array([row for row in range(len(shown)) if data.draw(st.booleans())], np.int64)
    step = step_rows(merged, rows, np.zeros(len(rows), np.int64), np.ones(len(rows), np.bool_))
    assert len(step.event_time) == len(step.action) == len(step.item_key) == len(step.has_item) == len(rows)
    got = dict(zip(rows[step.content_rows].tolist(), step.content, strict=True))
    whole = dict(zip(merged.content_rows.tolist(), merged.content, strict=True))
    assert got.keys() == {row for row in rows.tolist() if shown[row] is not None}
    assert all((vector == whole[row]).all() for row, vector in got.items())


def test_vectors_of_rows_that_are_not_recorded_are_not_kept() -> None:
    merged = merge([arrival_of([Asked((Sent(content=1), Sent(content=2), Sent(), Sent(content=1)))])], [[True]])
    assert set(contents(merged, np.array([0, 2, 3]))) == {bytes([1] * 16)}
    assert contents(merged, np.zeros(0, np.int64)) == {}


def test_accepted_and_late_events_are_kept_and_no_others() -> None:
    status = np.array(list(Status), np.int8)
    assert [Status(code) for code in status[is_recorded(status)]] == [Status.ACCEPTED, Status.LATE]
