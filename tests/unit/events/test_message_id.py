"""Derived message ids: the same event gets the same id wherever it stands, any other event another."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.events.arrow import read_events
from nextact_server.events.batch import MISSING_TIME, EventBatch, concatenate
from nextact_server.events.message_id import with_message_ids

WORDS = st.sampled_from(["", "a", "b", "ab", "a\0", "ü"])
TIMES = st.sampled_from([MISSING_TIME, 0, 1, -1, 1_700_000_000_000_000])


@dataclass(frozen=True)
class Sent:
    message_id: str = ""
    user_id: str = ""
    anonymous_id: str = ""
    action: str = ""
    item_id: str = ""
    session_id: str = ""
    text: str = ""
    image: bytes = b""
    properties: bytes = b""
    event_time: int = 0
    sent_at: int = MISSING_TIME


FIELDS = [name for name in Sent.__dataclass_fields__ if name != "message_id"]
sent = st.builds(
    Sent,
    user_id=WORDS,
    anonymous_id=WORDS,
    action=WORDS,
    item_id=WORDS,
    session_id=WORDS,
    text=WORDS,
    image=WORDS.map(str.encode),
    properties=WORDS.map(str.encode),
    event_time=TIMES,
    sent_at=TIMES,
)


def batch_of(events: Sequence[Sent], *, sparse: bool = True) -> EventBatch:
    """Columns of the events; with `sparse` those that no event carries are left out, as the decoder does."""
    columns = {}
    for name in ("message_id", "user_id", "anonymous_id", "action", "item_id", "session_id", "text"):
        values = [getattr(event, name) for event in events]
        columns[name] = pa.array(values, pa.string()) if any(values) or not sparse else None
    for name in ("image", "properties"):
        values = [getattr(event, name) for event in events]
        columns[name] = pa.array(values, pa.binary()) if any(values) or not sparse else None
    sent_at = np.array([event.sent_at for event in events], np.int64)
    return EventBatch(
        size=len(events),
        event_time=np.array([event.event_time for event in events], np.int64),
        sent_at=None if sparse and (sent_at == MISSING_TIME).all() else sent_at,
        **columns,
    )


def ids(messages: Sequence[Sequence[Sent]], *, sparse: bool = True) -> list[list[str]]:
    """The ids of messages that arrive together."""
    rows = [event for message in messages for event in message]
    boundaries = np.cumsum([0, *(len(message) for message in messages)])
    found = with_message_ids(batch_of(rows, sparse=sparse), boundaries)[0].to_pylist()
    return [found[start:stop] for start, stop in itertools.pairwise(boundaries)]


def id_of(event: Sent) -> str:
    return ids([[event]])[0][0]


@given(messages=st.lists(st.lists(sent, max_size=4), min_size=1, max_size=4), sparse=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_message_gets_the_same_ids_alone_and_in_any_burst(messages: list[list[Sent]], sparse: bool) -> None:
    together = ids(messages, sparse=sparse)
    for message, got in zip(messages, together, strict=True):
        assert ids([message])[0] == got


@given(message=st.lists(sent, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_ids_within_a_message_never_repeat_and_the_first_of_equals_has_the_id_it_has_alone(message: list[Sent]) -> None:
    got = ids([message])[0]
    assert len(set(got)) == len(got)
    for at, event in enumerate(message):
        if event not in message[:at]:
            assert got[at] == id_of(event)


@given(first=sent, second=sent)
@settings(max_examples=200, deadline=None)
def test_different_events_have_different_ids(first: Sent, second: Sent) -> None:
    assert (id_of(first) == id_of(second)) == (first == second)


@pytest.mark.parametrize("field", FIELDS)
def test_every_single_field_counts(field: str) -> None:
    base = Sent("", "u", "v", "view", "i", "s", "t", b"im", b"pr", 5, 6)
    values = {int: 7, str: "other", bytes: b"other"}
    changed = replace(base, **{field: values[type(getattr(base, field))]})
    emptied = replace(
        base, **{field: MISSING_TIME if field in ("event_time", "sent_at") else type(getattr(base, field))()}
    )
    assert len({id_of(base), id_of(changed), id_of(emptied)}) == 3


def test_a_value_in_one_field_is_not_the_same_value_in_another() -> None:
    strings = [name for name in FIELDS if name not in ("event_time", "sent_at")]
    made = {id_of(replace(Sent(), **{name: b"x" if name in ("image", "properties") else "x"})) for name in strings}
    assert len(made) == len(strings)
    assert id_of(Sent(event_time=5, sent_at=6)) != id_of(Sent(event_time=6, sent_at=5))


def test_equal_events_of_one_message_are_numbered_and_those_of_another_start_anew() -> None:
    event = Sent(user_id="u", action="view", event_time=3)
    first, second = ids([[event, event, event], [event, event]])
    assert len(set(first)) == 3
    assert second == first[:2]


def test_an_event_that_brings_its_id_keeps_it_and_is_no_occurrence_of_its_like() -> None:
    event = Sent(user_id="u", action="view", event_time=3)
    named = replace(event, message_id="mine")
    got = ids([[named, event, named, event]])[0]
    assert got == ["mine", id_of(event), "mine", ids([[event, event]])[0][1]]
    batch = batch_of([named, event])
    assert with_message_ids(batch, np.array([0, 2]))[1].tolist() == [False, True]


def test_a_batch_whose_events_all_bring_ids_is_left_as_it_is() -> None:
    batch = batch_of([Sent("x"), Sent("y")])
    found, derived = with_message_ids(batch, np.array([0, 2]))
    assert found is batch.message_id
    assert derived.tolist() == [False, False]


def test_derived_ids_are_the_same_in_every_run() -> None:
    # A client may send an event again to the next version of the server, too.
    assert id_of(Sent(user_id="u", action="view", event_time=3)) == "f784143e17e97bb2f97f5a2de3fc1818"


def test_an_empty_batch_has_no_ids() -> None:
    assert ids([[]]) == [[]]


@given(events=st.lists(sent.map(lambda e: replace(e, properties=b"", event_time=max(e.event_time, -1))), max_size=5))
@settings(max_examples=60, deadline=None)
def test_rows_and_arrow_derive_the_same_ids(events: list[Sent]) -> None:
    rows = batch_of(events)
    zone = pa.timestamp("us", "UTC")
    columns = {
        "user_id": pa.array([event.user_id or None for event in events], pa.string()),
        "action": pa.array([event.action for event in events], pa.string()).dictionary_encode(),
        "event_time": pa.array([event.event_time for event in events], pa.int64()).cast(zone),
        "sent_at": pa.array([None if e.sent_at == MISSING_TIME else e.sent_at for e in events], pa.int64()).cast(zone),
        "anonymous_id": pa.array([event.anonymous_id for event in events], pa.large_string()),
        "item_id": pa.array([event.item_id for event in events], pa.string()),
        "session_id": pa.array([event.session_id for event in events], pa.string()),
        "text": pa.array([event.text for event in events], pa.string()),
        "image": pa.array([event.image or None for event in events], pa.large_binary()),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    arrow = read_events(sink.getvalue().to_pybytes(), 10_000, 1 << 20)
    boundaries = np.array([0, len(events)])
    assert with_message_ids(arrow, boundaries)[0].to_pylist() == with_message_ids(rows, boundaries)[0].to_pylist()


@given(parts=st.lists(st.lists(sent, min_size=1, max_size=3), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_joining_batches_changes_no_id(parts: list[list[Sent]]) -> None:
    joined = concatenate([batch_of(part) for part in parts])
    boundaries = np.cumsum([0, *map(len, parts)])
    wanted = [name for part in parts for name in ids([part])[0]]
    assert with_message_ids(joined, boundaries)[0].to_pylist() == wanted
