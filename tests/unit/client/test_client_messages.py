"""What goes over the wire, and what cannot."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from fake_server import bad_request, status
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from nextact import Event, NextactError, StreamRetry
from nextact.channel import MAX_MESSAGE_BYTES
from nextact.errors import from_rpc_error
from nextact.messages import chunks, event_message, microseconds, options_message
from nextact.responses import event, moment, prediction_columns, tensor
from nextact.stream_batches import MAX_EVENTS, BatchEncoder, StreamMessage
from nextact.v1 import behavior_pb2 as pb


def encode(batch: Any, prefix: str = "p") -> list[StreamMessage]:
    return list(BatchEncoder("NONE", {}, prefix).messages(batch))


def sent_table(message: StreamMessage) -> pa.Table:
    return pa.ipc.open_stream(message.request.arrow_ipc).read_all()


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=-30))])))
def test_a_moment_survives_the_wire_to_the_microsecond(value: datetime) -> None:
    message = event_message(Event(user_id="a", action="b", event_time=value), "id")
    assert moment(message.event_time) == value
    assert 0 <= message.event_time.nanos < 1_000_000_000


def test_whole_microseconds_are_taken_from_numpy_too() -> None:
    assert microseconds(np.int64(-1), "event_time") == -1  # type: ignore[arg-type]


def test_a_time_without_a_zone_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="sent_at: 2024-01-01T00:00:00 has no time zone"):
        event_message({"user_id": "a", "action": "b", "sent_at": datetime(2024, 1, 1)}, "id")


@pytest.mark.parametrize("value", [1.5, "2024-01-01", None.__class__])
def test_a_time_that_is_none_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"event_time: .* is neither"):
        event_message({"user_id": "a", "action": "b", "event_time": value}, "id")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"item_id": 7}, "item_id: 7 is not a string"),
        ({"properties": {"when": datetime}}, r"properties\['when'\]"),
        ({"colour": "red"}, "no field 'colour'"),
        ("view", "not str"),
    ],
)
def test_what_is_no_event_is_refused_with_what_was_seen(wrong: Any, said: str) -> None:
    given_event = wrong if isinstance(wrong, str) else {"user_id": "a", "action": "b"} | wrong
    with pytest.raises((TypeError, ValueError), match=said):
        event_message(given_event, "id")


def test_an_event_survives_the_wire() -> None:
    value = Event(
        user_id="a",
        anonymous_id="b",
        action="c",
        item_id="d",
        event_time=datetime(2024, 1, 1, tzinfo=UTC),
        sent_at=datetime(2024, 1, 2, tzinfo=UTC),
        message_id="e",
        text="f",
        image=b"g",
        session_id="h",
        properties={"n": 1.0, "deep": {"list": [True, None, "x"]}},
    )
    assert event(event_message(value, "unused")) == value


def test_an_output_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="COLOURS"):
        options_message({"outputs": ["colours"]})


@given(st.lists(st.integers(0, 30)), st.integers(1, 5), st.integers(1, 40))
def test_chunks_keep_everything_in_order_within_the_limits(sizes: list[int], count: int, size: int) -> None:
    groups = list(chunks(sizes, lambda value: value, count, size))
    assert [value for group in groups for value in group] == sizes
    assert all(0 < len(group) <= count for group in groups)
    assert all(sum(group) <= size or len(group) == 1 for group in groups)


def test_rows_without_ids_are_numbered_under_the_prefix() -> None:
    encoder = BatchEncoder("NONE", {}, "p")
    rows = [{"user_id": "a", "action": "v"}, {"user_id": "a", "action": "v", "message_id": "own"}]
    messages = [*encoder.messages(rows), *encoder.messages(rows)]
    assert [e.message_id for m in messages for e in m.request.rows.events] == ["p-0", "own", "p-2", "own"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_arrow_ids_are_added_only_where_they_lack(kind: pa.DataType) -> None:
    table = pa.table({"user_id": ["a"] * 3, "message_id": pa.array(["own", None, ""], pa.string()).cast(kind)})
    [message] = encode(table)
    assert sent_table(message)["message_id"].to_pylist() == ["own", "p-1", "p-2"]


def test_arrow_is_sent_in_the_types_of_the_contract() -> None:
    table = pa.table(
        {
            "user_id": pa.array(["a", "b"], pa.large_string()),
            "action": pa.array(["v", "w"]).dictionary_encode(),
            "item_id": pa.array(["1", "2"], pa.large_string()).dictionary_encode(),
            "event_time": pa.array([1, 2], pa.int64()),
            "image": pa.array([b"x", None], pa.large_binary()),
            "text": pa.nulls(2),
        },
        metadata={"pandas": "{}"},
    )
    [message] = encode(table)
    sent = sent_table(message)
    assert {name: str(sent.schema.field(name).type) for name in sent.column_names} == {
        "user_id": "string",
        "action": "dictionary<values=string, indices=int32, ordered=0>",
        "item_id": "string",
        "event_time": "timestamp[us, tz=UTC]",
        "image": "binary",
        "message_id": "string",
    }
    assert sent.schema.metadata is None
    assert sent["event_time"].cast(pa.int64()).to_pylist() == [1, 2]


def test_a_dictionary_larger_than_its_batch_is_not_sent_with_it() -> None:
    users = pa.array([f"user-{n}" for n in range(5000)]).dictionary_encode()
    [message] = encode(pa.table({"user_id": users})[:10])
    assert message.size < 2000
    assert sent_table(message)["user_id"].to_pylist() == [f"user-{n}" for n in range(10)]


def test_a_large_batch_becomes_messages_within_the_limit_of_events() -> None:
    count = MAX_EVENTS * 2 + 5
    table = pa.table({"user_id": ["a"] * count})
    expected = [(0, 0, MAX_EVENTS), (0, MAX_EVENTS, MAX_EVENTS), (0, 2 * MAX_EVENTS, 5)]
    assert [(m.batch, m.offset, m.events) for m in encode(table)] == expected
    ids = [name for m in encode(table) for name in sent_table(m)["message_id"].to_pylist()]
    assert ids == [f"p-{n}" for n in range(count)]
    rows = [{"user_id": "a", "action": "v", "event_time": 1}] * (MAX_EVENTS + 1)
    assert [(m.offset, m.events) for m in encode(rows)] == [(0, MAX_EVENTS), (MAX_EVENTS, 1)]


def test_a_heavy_batch_becomes_messages_within_the_limit_of_bytes() -> None:
    image = bytes(7 * 1024 * 1024)
    table = pa.table({"user_id": ["a"] * 5, "image": pa.array([image] * 5)})
    rows = [{"user_id": "a", "action": "v", "image": image}] * 5
    for messages in (encode(table), encode(rows)):
        assert sum(m.events for m in messages) == 5
        assert [m.offset for m in messages] == [sum(e.events for e in messages[:n]) for n in range(len(messages))]
        assert all(m.request.ByteSize() <= m.size <= MAX_MESSAGE_BYTES for m in messages)
        assert len(messages) > 1


def test_a_tensor_is_a_view_and_must_fill_its_shape() -> None:
    data = np.arange(6, dtype="<i8").tobytes()
    assert tensor(pb.Tensor(dtype="INT64", shape=[2, 3], data=data)).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match=r"shape \(4, 3\) came with 6 elements"):
        tensor(pb.Tensor(dtype="INT64", shape=[4, 3], data=data))
    with pytest.raises(ValueError, match="'BF16'"):
        tensor(pb.Tensor(dtype="BF16", shape=[1], data=b"xx"))


def test_columns_that_were_not_asked_for_have_no_width() -> None:
    columns = prediction_columns(pb.PredictionColumns(user_ids=["a", "b"], event_index=[0, 1]))
    assert (columns.embedding.shape, columns.item_ids.shape) == ((2, 0), (2, 0))
    assert prediction_columns(pb.PredictionColumns()).item_scores.shape == (0, 0)


class _Failed(grpc.RpcError):
    """An error as both libraries raise it."""

    def __init__(self, failure: grpc.Status, trailing: list[tuple[str, bytes]] | None = None) -> None:
        self._failure = failure
        self._trailing = trailing

    def code(self) -> grpc.StatusCode:
        return self._failure.code

    def details(self) -> str:
        return self._failure.details

    def trailing_metadata(self) -> Any:
        return self._failure.trailing_metadata if self._trailing is None else self._trailing


def test_details_that_cannot_be_read_leave_the_status() -> None:
    failure = status(grpc.StatusCode.NOT_FOUND, "no such thing")
    contradiction = status_pb2.Status(code=3, message="other").SerializeToString()
    for broken in (b"\xff\xff", contradiction):
        error = from_rpc_error(_Failed(failure, [("grpc-status-details-bin", broken)]))
        assert str(error) == "NOT_FOUND: no such thing"


def test_an_error_is_one_line_and_says_nothing_twice() -> None:
    assert str(NextactError(grpc.StatusCode.UNKNOWN, "two\nlines")) == "UNKNOWN: two lines"
    assert str(NextactError(grpc.StatusCode.CANCELLED, "")) == "CANCELLED"
    error = from_rpc_error(_Failed(bad_request("events", "bad request")))
    assert str(error) == "INVALID_ARGUMENT: bad request"


def test_pauses_grow_to_their_limit_and_jitter_takes_off_at_most_half() -> None:
    retry = StreamRetry(initial_s=0.1, multiplier=2, max_s=5)
    assert [retry.pause(n, 0) for n in (1, 2, 3, 7, 10_000)] == pytest.approx([0.1, 0.2, 0.4, 5, 5])
    assert retry.pause(1, 1) == pytest.approx(0.05)


def test_importing_the_client_loads_no_model_library_and_no_arrow() -> None:
    code = "import sys, nextact; print({'torch', 'pyarrow', 'nextact_server', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
