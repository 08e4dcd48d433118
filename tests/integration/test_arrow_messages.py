"""Arrow messages that are not what the contract names: refused by column, and nothing of that message applied."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.event_makers import START_US, event, ipc, new_name, predict, record_batch, story
from support.open_stream import OpenStream, outcome
from support.refusals import refusal_of
from support.serving import Serving

from nextact.v1 import behavior_pb2 as pb


def columns_of(user: str, count: int = 3) -> dict[str, Any]:
    batch = record_batch(story(user, count))
    return {name: batch.column(name) for name in batch.schema.names}


def without(user: str, name: str) -> pa.RecordBatch:
    columns = columns_of(user)
    del columns[name]
    return pa.RecordBatch.from_pydict(columns)


def having(user: str, **changes: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({**columns_of(user), **changes})


def twice(user: str) -> pa.RecordBatch:
    columns = columns_of(user)
    return pa.RecordBatch.from_arrays([*columns.values(), columns["action"]], names=[*columns, "action"])


TIMES = [START_US, START_US + 1, START_US + 2]
WRONG: dict[str, tuple[Callable[[str], pa.RecordBatch], str]] = {
    "no user": (lambda user: without(user, "user_id"), "user_id"),
    "no action": (lambda user: without(user, "action"), "action"),
    "no time": (lambda user: without(user, "event_time"), "event_time"),
    "unknown column": (lambda user: having(user, colour=["a", "b", "c"]), "colour"),
    "properties": (lambda user: having(user, properties=pa.array([b""] * 3)), "properties"),
    "column twice": (twice, "action"),
    "number as user": (lambda user: having(user, user_id=[1, 2, 3]), "user_id"),
    "number as action": (lambda user: having(user, action=pa.array([1.0, 2.0, 3.0])), "action"),
    "binary as text": (lambda user: having(user, text=pa.array([b"a", b"b", b"c"])), "text"),
    "string as image": (lambda user: having(user, image=["a", "b", "c"]), "image"),
    "dictionary image": (lambda user: having(user, image=pa.array([b"a"] * 3).dictionary_encode()), "image"),
    "list as item": (lambda user: having(user, item_id=[["a"], ["b"], ["c"]]), "item_id"),
    "null type": (lambda user: having(user, action=pa.nulls(3)), "action"),
    "dictionary of numbers": (lambda user: having(user, action=pa.array([1, 2, 3]).dictionary_encode()), "action"),
    "string as time": (lambda user: having(user, event_time=["2024-01-01"] * 3), "event_time"),
    "number as time": (lambda user: having(user, event_time=TIMES), "event_time"),
    "no zone": (lambda user: having(user, event_time=pa.array(TIMES, pa.timestamp("us"))), "event_time"),
    "date as time": (lambda user: having(user, sent_at=pa.array([1, 2, 3], pa.date32())), "sent_at"),
    "seconds that overflow": (
        lambda user: having(user, event_time=pa.array([2**62] * 3, pa.timestamp("s", "UTC"))),
        "event_time",
    ),
}


def send_between(server: Serving, user: str, bad: bytes) -> Any:
    """A good message, the bad one, and a good one behind it; returns the refusal."""
    stream = OpenStream(server.channel)
    for number, payload in enumerate([ipc(record_batch(story(user, 2))), bad, ipc(record_batch(story(user, 9)))], 1):
        stream.send(pb.StreamEventsRequest(number=number, arrow_ipc=payload))
    acknowledged, error = stream.failure()
    assert [answer.number for answer in acknowledged] == [1]
    assert server.stub.Rank(pb.RankRequest(user_id=user, top_k=1)).events_seen == 2
    return refusal_of(error)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_column_is_named_and_nothing_of_its_message_applied(server: Serving, what: str) -> None:
    make, column = WRONG[what]
    user = new_name()
    refusal = send_between(server, user, ipc(make(user)))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("arrow_ipc",))
    assert f"'{column}'" in refusal.message


def dictionary_bomb() -> bytes:
    """Ten thousand rows that all point at one text of 60 KB: 600 MB once decoded."""
    many = 10_000
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(many, np.int32)), pa.array(["x" * 60_000]))
    columns = {
        "user_id": pa.array(["bomb"] * many),
        "action": pa.array(["view"] * many),
        "event_time": pa.array([START_US] * many, pa.timestamp("us", "UTC")),
        "text": text,
    }
    return ipc(pa.RecordBatch.from_pydict(columns))


def bad_offsets(user: str) -> bytes:
    """A batch whose user ids claim bytes that are not there."""
    offsets = pa.py_buffer(struct.pack("<4i", 0, 3, 2_000_000_000, 7))
    users = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abcdefg")])
    return ipc(having(user, user_id=users))


def no_utf8(user: str) -> bytes:
    offsets = pa.py_buffer(struct.pack("<4i", 0, 2, 4, 6))
    users = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"\xff\xfe" * 3)])
    return ipc(having(user, user_id=users))


BROKEN: dict[str, Callable[[str], bytes]] = {
    "nothing": lambda user: b"",
    "garbage": lambda user: b"\x13\x37" * 100,
    "zeros": lambda user: bytes(64),
    "cut": lambda user: ipc(record_batch(story(user, 3)))[:-200],
    "cut in the schema": lambda user: ipc(record_batch(story(user, 3)))[:100],
    "two batches": lambda user: ipc(*[record_batch(story(user, 3))] * 2),
    "schema only": lambda user: record_batch(story(user, 3)).schema.serialize().to_pybytes(),
    "a file, no stream": lambda user: b"ARROW1\0\0" + ipc(record_batch(story(user, 3))),
    "lz4": lambda user: ipc(record_batch(story(user, 3)), compression="lz4"),
    "zstd": lambda user: ipc(record_batch(story(user, 3)), compression="zstd"),
    "dictionary bomb": lambda user: dictionary_bomb(),
    "offsets beyond the data": bad_offsets,
    "broken UTF-8": no_utf8,
}


@pytest.mark.parametrize("what", BROKEN)
def test_bytes_that_are_no_batch_are_refused_and_nothing_applied(server: Serving, what: str) -> None:
    user = new_name()
    refusal = send_between(server, user, BROKEN[what](user))
    assert (refusal.code.name, refusal.fields) == ("INVALID_ARGUMENT", ("arrow_ipc",))


def test_damaged_batches_never_break_the_server(server: Serving) -> None:
    user = new_name()
    dice = np.random.default_rng(5)
    whole = np.frombuffer(ipc(record_batch(story(user, 3))), np.uint8)
    for _ in range(150):
        damaged = whole.copy()
        at = dice.integers(0, len(whole), 3)
        damaged[at] = dice.integers(0, 256, 3)
        stream = OpenStream(server.channel).send(pb.StreamEventsRequest(number=1, arrow_ipc=damaged.tobytes())).done()
        assert outcome(stream) in ("OK", "INVALID_ARGUMENT")
    assert server.stub.Predict(predict([event(user)])).results[0].status == pb.EVENT_STATUS_ACCEPTED


def dictionaries(user: str) -> pa.RecordBatch:
    columns = columns_of(user)
    return having(user, **{name: columns[name].dictionary_encode() for name in ("user_id", "action", "item_id")})


GOOD: dict[str, Callable[[str], pa.RecordBatch]] = {
    "plain": lambda user: record_batch(story(user, 3)),
    "dictionaries": dictionaries,
    "seconds": lambda user: record_batch(story(user, 3), unit="s"),
    "milliseconds": lambda user: record_batch(story(user, 3), unit="ms"),
    "nanoseconds": lambda user: record_batch(story(user, 3), unit="ns"),
    "another zone": lambda user: having(
        user, event_time=columns_of(user)["event_time"].cast(pa.timestamp("us", "Asia/Tokyo"))
    ),
    "large strings": lambda user: having(user, action=columns_of(user)["action"].cast(pa.large_string())),
    "a slice": lambda user: record_batch([*story("other", 2), *story(user, 3)]).slice(2),
    "nulls in optional columns": lambda user: having(user, text=pa.array([None, "", None], pa.string())),
    "columns in another order": lambda user: record_batch(story(user, 3)).select(
        ["event_time", "action", "item_id", "user_id", "message_id"]
    ),
}


@pytest.mark.parametrize("what", GOOD)
def test_every_promised_form_of_a_column_is_the_same_events(server: Serving, what: str) -> None:
    user = new_name()
    payload = pb.StreamEventsRequest(number=1, arrow_ipc=ipc(GOOD[what](user)))
    (answer,) = OpenStream(server.channel).send(payload).rest()
    assert (answer.accepted, len(answer.failures)) == (3, 0)
    again = server.stub.Predict(predict(story(user, 3)))
    assert [result.status for result in again.results] == [pb.EVENT_STATUS_DUPLICATE] * 3
    held = server.stub.GetUser(pb.GetUserRequest(user_id=user)).history
    assert [entry.event.event_time for entry in reversed(held)] == [one.event_time for one in story(user, 3)]


def test_nulls_in_required_columns_fail_their_events_alone(server: Serving) -> None:
    user = new_name()
    batch = pa.RecordBatch.from_pydict(
        {
            "user_id": [user, None, user, user, user],
            "action": ["view", "view", None, "view", "view"],
            "event_time": pa.array([START_US, START_US, START_US, None, START_US + 1], pa.timestamp("us", "UTC")),
        }
    )
    (answer,) = OpenStream(server.channel).send(pb.StreamEventsRequest(number=1, arrow_ipc=ipc(batch))).rest()
    assert answer.accepted == 2
    assert [(one.index, one.field) for one in answer.failures] == [(1, "user_id"), (2, "action"), (3, "event_time")]


def test_texts_and_images_come_by_arrow_too(server: Serving) -> None:
    from support.pictures import picture, truncated

    user, twin = new_name(), new_name()

    def told(name: str) -> list[pb.Event]:
        return [
            event(name, 0, text="hello", message_id="0"),
            event(name, 1, image=picture(3), message_id="1"),
            event(name, 2, image=truncated(), message_id="2"),
            event(name, 3, text="hello", image=picture(3), message_id="3"),
        ]

    message = pb.StreamEventsRequest(
        number=1, arrow_ipc=ipc(record_batch(told(user))), predictions=pb.STREAM_PREDICTIONS_LAST_PER_USER
    )
    (answer,) = OpenStream(server.channel).send(message).rest()
    assert [(one.index, one.field) for one in answer.failures] == [(2, "image")]
    expected = server.stub.Predict(predict(told(twin))).predictions[0].embedding
    got = np.frombuffer(answer.columns.embedding.data, "<f4")
    np.testing.assert_allclose(got, expected, atol=1e-5)
