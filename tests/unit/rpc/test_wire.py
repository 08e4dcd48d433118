"""Broken bytes: the field is named where it can be told, and nothing but INVALID_ARGUMENT ever comes of them."""

import time

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact.v1 import behavior_pb2 as pb
from nextact_server.rpc.decode import parse
from nextact_server.rpc.errors import CallError
from nextact_server.rpc.wire import MAX_FIELDS, broken_field

KINDS = [
    pb.PredictRequest,
    pb.StreamEventsRequest,
    pb.EmbedRequest,
    pb.RankRequest,
    pb.UpsertItemsRequest,
    pb.GetUserRequest,
]


def tagged(number: int, wire_type: int, rest: bytes = b"") -> bytes:
    return bytes([number << 3 | wire_type]) + rest


def nested(number: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return tagged(number, 2, bytes([len(payload)]) + payload)


def number_of(message: type, field: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number)


def event(field: str, payload: bytes) -> bytes:
    return nested(number_of(pb.PredictRequest, "events"), nested(number_of(pb.Event, field), payload))


GOOD = event("user_id", b"u")


def assert_parsed_or_refused(kind: type, payload: bytes) -> None:
    refused = None
    try:
        assert isinstance(parse(kind, payload), kind)
    except CallError as error:
        refused = error
    assert refused is None or refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused is None or refused.violation.field


def refusal(payload: bytes, kind: type = pb.PredictRequest) -> CallError:
    with pytest.raises(CallError) as refused:
        parse(kind, payload)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return refused.value


@pytest.mark.parametrize("field", ["user_id", "message_id", "action", "item_id", "text", "session_id"])
def test_a_string_that_is_no_utf8_is_named_with_its_place(field: str) -> None:
    error = refusal(GOOD + GOOD + event(field, b"ab\xff"))
    assert error.violation.field == f"events[2].{field}"
    assert "is not valid UTF-8: invalid start byte at byte 2" in error.message


def test_a_field_that_ends_too_early_is_named() -> None:
    options = number_of(pb.PredictRequest, "options")
    error = refusal(GOOD + tagged(options, 2, b"\x09abc"))
    assert (error.violation.field, error.violation.description) == (
        "options",
        f"ends 6 bytes too early ({len(GOOD) + 5} bytes of PredictRequest)",
    )


def test_keys_and_values_of_maps_are_named_too() -> None:
    options, wish = number_of(pb.PredictRequest, "options"), number_of(pb.PredictOptions, "filter")
    entry = nested(number_of(pb.ItemFilter, "attributes"), nested(1, b"\xff"))
    assert refusal(nested(options, nested(wish, entry))).violation.field == "options.filter.attributes[0].key"


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"\x80", "ends in the middle of a number"),
        (b"\x80" * 11, "has a number of more than 10 bytes"),
        (tagged(1, 2, b"\x80" * 11), "has a number of more than 10 bytes"),
        (tagged(1, 6), "has wire type 6, which is not used"),
        (tagged(1, 5, b"ab"), "ends 2 bytes too early"),
        (tagged(1, 1, b"ab"), "ends 6 bytes too early"),
    ],
)
def test_what_is_wrong_is_said(payload: bytes, problem: str) -> None:
    assert broken_field(pb.PredictRequest.DESCRIPTOR, payload)[1] == problem


def test_unknown_fields_are_passed_over() -> None:
    unknown = b"".join(
        [tagged(15, 0, b"\x05"), tagged(15, 1, b"x" * 8), tagged(15, 5, b"x" * 4), tagged(15, 2, b"\x01x")]
    )
    assert broken_field(pb.PredictRequest.DESCRIPTOR, unknown + event("text", b"\xff"))[0] == "events[0].text"


def test_nesting_beyond_all_measure_is_refused() -> None:
    value = b"\x08\x00"
    for _ in range(400):
        size, length = len(value), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        value = b"\x32" + length + bytes([size]) + value  # Value.list_value
        size, length = len(value), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        value = b"\x0a" + length + bytes([size]) + value  # ListValue.values
    field, problem = broken_field(pb.PredictRequest.DESCRIPTOR, b"")
    assert (field, problem) == ("", "cannot be parsed")
    from google.protobuf.struct_pb2 import ListValue

    with pytest.raises(DecodeError):
        ListValue.FromString(value)
    field, problem = broken_field(ListValue.DESCRIPTOR, value)
    assert "is nested more than 100 deep" in problem


def test_a_broken_message_of_millions_of_fields_is_given_up_on_soon() -> None:
    payload = GOOD[:1] + b"\x00"
    huge = payload * (4 * MAX_FIELDS) + b"\x0a\xff"
    started = time.thread_time()
    error = refusal(huge)
    assert error.violation.field == "request"
    assert "cannot be parsed" in error.message
    assert time.thread_time() - started < 10, "a bound on work, not a benchmark: unbounded it takes minutes at 32 MiB"


def test_what_is_whole_is_parsed() -> None:
    assert parse(pb.PredictRequest, GOOD).events[0].user_id == "u"
    assert parse(pb.PredictRequest, b"") == pb.PredictRequest()


SAMPLE = pb.PredictRequest(
    events=[pb.Event(user_id="u", action="view", text="ü", image=b"\xff", item_id="i")] * 2,
    options=pb.PredictOptions(top_k=3, outputs=[1, 2], filter=pb.ItemFilter(attributes={"a": "b"})),
).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
@given(payload=st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_random_bytes_are_a_message_or_an_invalid_argument(kind: type, payload: bytes) -> None:
    field, problem = broken_field(kind.DESCRIPTOR, payload)
    assert isinstance(field, str)
    assert problem
    assert_parsed_or_refused(kind, payload)


@given(
    flips=st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, len(SAMPLE)),
)
@settings(max_examples=300, deadline=None)
def test_flipped_and_cut_messages_are_read_or_an_invalid_argument(flips: list[tuple[int, int]], cut: int) -> None:
    payload = bytearray(SAMPLE)
    for at, value in flips:
        payload[at] = value
    for damaged in (bytes(payload), bytes(payload[:cut])):
        assert_parsed_or_refused(pb.PredictRequest, damaged)
