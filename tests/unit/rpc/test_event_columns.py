"""Requests to columns and calls: what is wrong with a call is named, what is right arrives whole."""

import re

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.arrow import read_events
from nextact_server.events.batch import MISSING_TIME, concatenate
from nextact_server.events.call import NO_FILTER, Per, Want
from nextact_server.events.message_id import with_message_ids
from nextact_server.events.validation import EARLIEST_TIME, EventLimits, check
from nextact_server.rpc.decode import (
    LAST_SECOND,
    PredictReader,
    event_columns,
    filter_of,
    has_content,
    microseconds,
    options_of,
)
from nextact_server.rpc.errors import CallError
from nextact_server.rpc.limits import Limits

LIMITS = Limits(predict_events=3, top_k=10, default_top_k=4, candidates=2, id_bytes=8)
NOW = 1_700_000_000_000_000


def refused(field: str, reason: str, act: object, *arguments: object) -> None:
    with pytest.raises(CallError, match=re.escape(reason)) as error:
        act(*arguments)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.violation.field == field


def options(**fields: object) -> object:
    return options_of(pb.PredictOptions(**fields), Per.USER, LIMITS)


def test_nothing_asked_is_everything_with_the_default_top_k() -> None:
    got = options()
    assert (got.top_k, got.want, got.per, got.filter, got.as_of_us) == (4, Want.ALL, Per.USER, NO_FILTER, None)


def test_what_is_asked_is_what_is_wanted() -> None:
    got = options(
        top_k=10,
        outputs=[pb.OUTPUT_ACTIONS, pb.OUTPUT_ITEMS],
        dry_run=True,
        model_version="1",
        as_of=Timestamp(seconds=5),
    )
    assert (got.top_k, got.want, got.dry_run, got.model_version) == (10, Want.ACTIONS | Want.ITEMS, True, "1")
    assert got.as_of_us == 5_000_000


@pytest.mark.parametrize("top_k", [-1, 11])
def test_a_top_k_out_of_bounds_is_refused(top_k: int) -> None:
    refused("options.top_k", f"{top_k} is not in 0..10 (max_top_k)", lambda: options(top_k=top_k))


@pytest.mark.parametrize("output", [0, 99])
def test_an_output_that_is_none_is_refused(output: int) -> None:
    refused("options.outputs", f"{output} is not an output", lambda: options(outputs=[output]))


@pytest.mark.parametrize("stamp", [(0, -1), (0, 10**9), (LAST_SECOND + 1, 0), (-LAST_SECOND - 1, 0)])
def test_an_as_of_that_is_no_time_is_refused(stamp: tuple[int, int]) -> None:
    as_of = Timestamp(seconds=stamp[0], nanos=stamp[1])
    refused("options.as_of", f"{stamp[0]} s and {stamp[1]} ns are not a time", lambda: options(as_of=as_of))


def test_a_filter_tells_false_from_not_said() -> None:
    assert filter_of(pb.ItemFilter(), "filter", LIMITS).exclude_seen is None
    assert filter_of(pb.ItemFilter(exclude_seen=False), "filter", LIMITS).exclude_seen is False
    got = filter_of(pb.ItemFilter(include_item_ids=["a"], exclude_item_ids=["b"], attributes={"c": "d"}), "f", LIMITS)
    assert (got.include, got.exclude, got.attributes) == (("a",), ("b",), {"c": "d"})


@pytest.mark.parametrize("name", ["include_item_ids", "exclude_item_ids"])
def test_too_many_ids_of_a_filter_are_refused(name: str) -> None:
    message = pb.ItemFilter(**{name: ["a", "b", "c"]})
    refused(f"f.{name}", "3 ids; at most 2 (max_candidates)", filter_of, message, "f", LIMITS)


def test_a_call_covers_its_history_and_then_its_events() -> None:
    request = pb.PredictRequest(events=[pb.Event()] * 2, history=[pb.Event()])
    call = PredictReader(LIMITS).call(request, 10)
    assert (call.start, call.stop, call.history, call.is_private) == (10, 13, 1, True)


@pytest.mark.parametrize("name", ["events", "history"])
def test_more_events_than_a_call_may_have_are_refused(name: str) -> None:
    request = pb.PredictRequest(**{name: [pb.Event()] * 4})
    refused(name, "4 events; at most 3 (max_predict_events)", PredictReader(LIMITS).call, request, 0)
    PredictReader(LIMITS).call(pb.PredictRequest(events=[pb.Event()] * 3, history=[pb.Event()] * 3), 0)


def test_a_request_id_that_is_too_long_is_refused() -> None:
    request = pb.PredictRequest(request_id="ü" * 5)
    refused("request_id", "longer than 8 bytes (max_id_bytes)", PredictReader(LIMITS).call, request, 0)


def test_options_read_once_are_not_taken_for_others() -> None:
    reader = PredictReader(LIMITS)
    for top_k in (1, 2, 1):
        assert reader.call(pb.PredictRequest(options=pb.PredictOptions(top_k=top_k)), 0).options.top_k == top_k
    bad = pb.PredictRequest(options=pb.PredictOptions(top_k=11))
    for _ in range(2):
        refused("options.top_k", "11 is not in 0..10", reader.call, bad, 0)


def test_columns_hold_what_the_events_hold_and_only_what_some_event_has() -> None:
    properties = Struct()
    properties.update({"b": 1, "a": "x"})
    events = [
        pb.Event(user_id="u", action="view", event_time=Timestamp(seconds=1, nanos=1999)),
        pb.Event(anonymous_id="v", image=b"\xff", properties=properties, sent_at=Timestamp(seconds=2)),
    ]
    batch = event_columns(events)
    assert batch.event_time.tolist() == [1_000_001, MISSING_TIME]
    assert batch.sent_at.tolist() == [MISSING_TIME, 2_000_000]
    assert batch.user_id.to_pylist() == ["u", ""]
    assert batch.anonymous_id.to_pylist() == ["", "v"]
    assert batch.image.to_pylist() == [b"", b"\xff"]
    assert Struct.FromString(batch.properties[1].as_py()) == properties
    assert batch.properties[0].as_py() == b""
    assert {name for name, _ in batch.columns()} == {
        "event_time", "sent_at", "user_id", "anonymous_id", "action", "image", "properties",
    }  # fmt: skip


def test_no_events_are_columns_too() -> None:
    batch = event_columns([])
    assert batch.size == len(batch.user_id) == len(batch.event_time) == 0


def test_properties_are_the_same_bytes_in_whatever_order_they_were_given() -> None:
    forth, back = Struct(), Struct()
    for name in "abcdefgh":
        forth.update({name: name})
    for name in reversed("abcdefgh"):
        back.update({name: name})
    first, second = (event_columns([pb.Event(properties=p)]).properties[0].as_py() for p in (forth, back))
    assert first == second


@given(seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=200, deadline=None)
def test_any_timestamp_becomes_a_number_and_only_a_time_becomes_that_time(seconds: int, nanos: int) -> None:
    got = microseconds(seconds, nanos)
    assert np.iinfo(np.int64).min < got <= np.iinfo(np.int64).max
    is_time = -62_135_596_800 <= seconds <= LAST_SECOND and 0 <= nanos < 10**9
    if is_time:
        assert got == (seconds * 10**9 + nanos) // 1000
    else:
        assert got < EARLIEST_TIME or got > LAST_SECOND * 10**6


def test_a_timestamp_out_of_range_is_an_invalid_event_and_not_a_missing_time() -> None:
    stamps = [(2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 10**9), (LAST_SECOND + 1, 0)]
    events = [pb.Event(user_id="u", action="a", event_time=Timestamp(seconds=s, nanos=n)) for s, n in stamps]
    valid, faults = check(event_columns(events), EventLimits(), NOW)
    assert not valid.any()
    assert {fault.field for fault in faults.values()} == {"event_time"}
    assert not any("missing" in fault.reason for fault in faults.values())


def test_events_with_content_are_told_apart() -> None:
    assert not has_content([pb.Event(user_id="u"), pb.Event()])
    assert has_content([pb.Event(), pb.Event(text="x")])
    assert has_content([pb.Event(image=b"x")])


words = st.sampled_from(["", "a", "b", "ü"])
wire_events = st.builds(
    pb.Event,
    user_id=words,
    anonymous_id=words,
    action=words,
    item_id=words,
    session_id=words,
    text=words,
    image=words.map(str.encode),
    event_time=st.one_of(
        st.none(),
        st.builds(Timestamp, seconds=st.integers(-5, 5), nanos=st.sampled_from([0, 1, 999, 1000, 999_999_999])),
    ),
)


@given(events=st.lists(wire_events, min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_rows_and_arrow_of_the_same_events_derive_the_same_message_ids(events: list[pb.Event]) -> None:
    names = ("user_id", "anonymous_id", "action", "item_id", "session_id", "text", "image")
    columns = {name: pa.array([getattr(event, name) or None for event in events]) for name in names}
    columns = {name: values.cast(pa.binary() if name == "image" else pa.string()) for name, values in columns.items()}
    times = [
        event.event_time.seconds * 10**9 + event.event_time.nanos if event.HasField("event_time") else None
        for event in events
    ]
    columns["event_time"] = pa.array(times, pa.int64()).cast(pa.timestamp("ns", "UTC"))
    table = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_batch(table)
    arrow = read_events(sink.getvalue().to_pybytes(), 100, 1 << 20)
    whole = np.array([0, len(events)])
    got = with_message_ids(event_columns(events), whole)[0].to_pylist()
    assert with_message_ids(arrow, whole)[0].to_pylist() == got


@given(parts=st.lists(st.lists(wire_events, max_size=3), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_requests_read_together_are_the_requests_read_one_by_one(parts: list[list[pb.Event]]) -> None:
    together = event_columns([event for part in parts for event in part])
    joined = concatenate([event_columns(part) for part in parts])
    assert together.event_time.tolist() == joined.event_time.tolist()
    bounds = np.cumsum([0, *map(len, parts)])
    assert with_message_ids(together, bounds)[0].to_pylist() == with_message_ids(joined, bounds)[0].to_pylist()
