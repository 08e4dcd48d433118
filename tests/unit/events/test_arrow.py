"""Arrow batches: the columns of the contract come through, everything else is refused by name."""

import gc
import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.events.arrival import arrive
from nextact_server.events.arrow import ArrowError, read_events
from nextact_server.events.batch import MISSING_TIME, EventBatch
from nextact_server.events.call import Call, CallOptions
from nextact_server.events.validation import EventLimits

NOW = 1_700_000_000_000_000
UTC = pa.timestamp("us", "UTC")
MIB = 1 << 20
Columns = dict[str, pa.Array]


def stamps(*values: int | None, kind: pa.DataType = UTC) -> pa.Array:
    return pa.array(values, pa.int64()).cast(kind)


def base(n: int = 2) -> Columns:
    return {
        "user_id": pa.array([f"u{row}" for row in range(n)]),
        "action": pa.array(["view"] * n),
        "event_time": stamps(*range(NOW, NOW + n)),
    }


def ipc(*batches: pa.RecordBatch, schema: pa.Schema | None = None, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def batch_of(columns: Columns) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def read(columns: Columns, max_events: int = 100, max_decoded: int = MIB) -> EventBatch:
    return read_events(ipc(batch_of(columns)), max_events, max_decoded)


def refusal(columns: Columns, **limits: int) -> str:
    with pytest.raises(ArrowError) as refused:
        read(columns, **limits)
    return str(refused.value)


def test_every_column_of_the_contract_comes_through() -> None:
    strings = {name: pa.array(["a", None]) for name in ("message_id", "anonymous_id", "item_id", "session_id", "text")}
    batch = read({**base(), **strings, "image": pa.array([b"\xff", None]), "sent_at": stamps(None, 5)})
    assert batch.size == 2
    assert batch.user_id.to_pylist() == ["u0", "u1"]
    assert batch.event_time.tolist() == [NOW, NOW + 1]
    assert batch.sent_at.tolist() == [MISSING_TIME, 5]
    assert batch.image.to_pylist() == [b"\xff", None]
    for name in strings:
        assert getattr(batch, name).to_pylist() == ["a", None]
        assert getattr(batch, name).type == pa.string()
    assert batch.properties is None


def test_columns_that_did_not_come_are_not_there() -> None:
    batch = read(base())
    assert [name for name, _ in batch.columns()] == ["event_time", "user_id", "action"]


def test_anonymous_events_need_no_user_id() -> None:
    columns = base()
    columns["anonymous_id"] = columns.pop("user_id")
    assert read(columns).anonymous_id.to_pylist() == ["u0", "u1"]


@pytest.mark.parametrize("name", ["action", "event_time"])
def test_a_missing_column_is_named(name: str) -> None:
    columns = base()
    del columns[name]
    assert refusal(columns) == f"column {name!r} is missing; it is required"


def test_at_least_one_kind_of_user_id_is_required() -> None:
    columns = base()
    del columns["user_id"]
    assert refusal(columns) == "columns 'user_id' and 'anonymous_id' are both missing; one is required"


def test_an_unknown_column_is_refused_by_name_however_long_the_name() -> None:
    assert refusal({**base(), "colour": pa.array(["x", "y"])}).startswith("unknown column 'colour'; known are action, ")
    assert len(refusal({**base(), "x" * 100_000: pa.array(["x", "y"])})) < 500


def test_a_column_that_comes_twice_is_refused_by_name_however_many_there_are() -> None:
    columns = base()
    arrays = [*columns.values(), *([columns["action"]] * 30_000)]
    batch = pa.RecordBatch.from_arrays(arrays, names=[*columns, *(["action"] * 30_000)])
    with pytest.raises(ArrowError, match="column 'action' is there more than once"):
        read_events(ipc(batch), 100, MIB)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("user_id", pa.array([1, 2]), "string or dictionary of string"),
        ("user_id", pa.array([b"a", b"b"]), "string or dictionary of string"),
        ("user_id", pa.array(["a", "b"]).cast(pa.string_view()), "string or dictionary of string"),
        ("user_id", pa.array([["a"], ["b"]]), "string or dictionary of string"),
        ("item_id", pa.nulls(2), "string or dictionary of string"),
        ("item_id", pa.array([1, 2]).dictionary_encode(), "string or dictionary of string"),
        ("item_id", pa.array([b"a", b"b"]).dictionary_encode(), "string or dictionary of string"),
        ("image", pa.array(["a", "b"]), "binary"),
        ("image", pa.array([b"a", b"b"]).dictionary_encode(), "binary"),
        ("event_time", pa.array([1, 2]), "a timestamp with time zone"),
        ("event_time", pa.array([1, 2], pa.timestamp("us")), "a timestamp with time zone"),
        ("sent_at", pa.array([1.0, float("nan")]), "a timestamp with time zone"),
        ("sent_at", pa.array([1, 2], pa.date32()), "a timestamp with time zone"),
        ("event_time", stamps(1, 2).dictionary_encode(), "a timestamp with time zone"),
    ],
)
def test_a_column_of_another_type_is_refused_with_what_was_expected(name: str, values: pa.Array, expected: str) -> None:
    assert refusal({**base(), name: values}) == f"column {name!r} is {values.type}; {expected} is expected"


@pytest.mark.parametrize(("unit", "per_us"), [("s", 1e-6), ("ms", 1e-3), ("us", 1), ("ns", 1000)])
@pytest.mark.parametrize("zone", ["UTC", "+02:00", "Europe/Berlin", "Not/AZone"])
def test_times_of_any_unit_and_zone_are_microseconds_since_1970(unit: str, per_us: float, zone: str) -> None:
    at = stamps(int(NOW * per_us), None, kind=pa.timestamp(unit, zone))
    assert read({**base(), "event_time": at}).event_time.tolist() == [NOW, MISSING_TIME]


@given(nanoseconds=st.integers(-(2**63) + 1, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_nanoseconds_are_rounded_down_also_before_1970(nanoseconds: int) -> None:
    at = stamps(nanoseconds, None, kind=pa.timestamp("ns", "UTC"))
    assert read({**base(), "event_time": at}).event_time.tolist() == [nanoseconds // 1000, MISSING_TIME]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_a_time_beyond_what_microseconds_can_say_is_refused(unit: str) -> None:
    at = stamps(2**62, 0, kind=pa.timestamp(unit, "UTC"))
    assert refusal({**base(), "event_time": at}) == "column 'event_time' has a time out of the range of microseconds"


@pytest.mark.parametrize("index", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()])
@pytest.mark.parametrize("values", [pa.string(), pa.large_string()])
def test_dictionaries_of_any_index_come_through_as_strings(index: pa.DataType, values: pa.DataType) -> None:
    codes = pa.array([1, None], index)
    column = pa.DictionaryArray.from_arrays(codes, pa.array(["x", "y"], values))
    batch = read({**base(), "item_id": column})
    assert batch.item_id.type == pa.string()
    assert batch.item_id.to_pylist() == ["y", None]


def test_large_strings_and_binaries_come_through_as_plain_ones() -> None:
    columns = {
        **base(),
        "user_id": pa.array(["a", "b"], pa.large_string()),
        "image": pa.array([b"x", None], pa.large_binary()),
    }
    batch = read(columns)
    assert (batch.user_id.type, batch.image.type) == (pa.string(), pa.binary())


def test_a_dictionary_that_decodes_to_too_much_is_refused_before_it_is_decoded() -> None:
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int8()), pa.array(["x" * MIB]))
    columns = {**base(100), "text": bomb}
    before = pa.total_allocated_bytes()
    message = refusal(columns, max_events=100, max_decoded=32 * MIB)
    assert pa.total_allocated_bytes() - before < 8 * MIB
    assert message == (
        f"column 'text' decodes to {100 * MIB} bytes; at most {32 * MIB} are allowed (max_message_bytes)"
    )


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("encoded", [False, True])
def test_compressed_buffers_are_refused(codec: str, encoded: bool) -> None:
    columns = base(100)
    if encoded:
        columns["action"] = columns["action"].dictionary_encode()
    with pytest.raises(ArrowError, match="compressed buffers are not accepted"):
        read_events(ipc(batch_of(columns), compression=codec), 100, MIB)


def test_a_compressed_dictionary_alone_is_refused_too() -> None:
    columns = {name: values.slice(0, 0) for name, values in base().items()}
    columns["text"] = pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), pa.array(["x" * MIB]))
    with pytest.raises(ArrowError, match="compressed buffers are not accepted"):
        read_events(ipc(batch_of(columns), compression="zstd"), 100, MIB)


def test_exactly_one_batch_is_expected() -> None:
    batch = batch_of(base())
    for count in (0, 2):
        with pytest.raises(ArrowError, match=f"{count} record batches in one message; exactly one is expected"):
            read_events(ipc(*[batch] * count, schema=batch.schema), 100, MIB)


def test_a_batch_without_rows_is_a_batch() -> None:
    assert read({name: values.slice(0, 0) for name, values in base().items()}).size == 0


def test_too_many_rows_name_the_setting() -> None:
    assert refusal(base(11), max_events=10) == "11 events; at most 10 are allowed (max_stream_events)"
    assert read(base(10), max_events=10).size == 10


def test_strings_that_are_no_utf8_are_refused() -> None:
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    assert "not a valid Arrow IPC stream" in refusal({**base(), "user_id": broken})
    hidden = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), broken)
    assert "not a valid Arrow IPC stream" in refusal({**base(), "user_id": hidden})


@pytest.mark.parametrize("payload", [b"", b"\0", b"\xff" * 8, b"\xff\xff\xff\xff\0\0\0\0", b"not arrow at all" * 10])
def test_what_is_no_arrow_at_all_is_refused(payload: bytes) -> None:
    with pytest.raises(ArrowError):
        read_events(payload, 100, MIB)


def rich() -> bytes:
    columns = {
        **base(8),
        "item_id": pa.array(["a", None] * 4).dictionary_encode(),
        "text": pa.array(["some text", ""] * 4, pa.large_string()),
        "image": pa.array([b"\x89PNG", None] * 4),
        "sent_at": stamps(*[None, 5] * 4, kind=pa.timestamp("ns", "UTC")),
    }
    return ipc(batch_of(columns))


RICH = rich()


@given(
    flips=st.lists(st.tuples(st.integers(0, len(RICH) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.one_of(st.none(), st.integers(0, len(RICH))),
)
@settings(max_examples=600, deadline=None)
def test_flipped_and_cut_bytes_are_refused_or_read_but_never_anything_else(
    flips: list[tuple[int, int]], cut: int | None
) -> None:
    payload = bytearray(RICH)
    for at, value in flips:
        payload[at] = value
    try:
        batch = read_events(bytes(payload[:cut]), 100, MIB)
    except ArrowError:
        return
    arrival = arrive(batch, [Call(0, batch.size, CallOptions())], EventLimits(), {"view": 2}, NOW)
    assert len(arrival.valid) == batch.size
    for _, column in batch.columns():
        assert len(column) == batch.size


@pytest.mark.parametrize("at", range(0, len(RICH), 7))
def test_every_byte_of_the_metadata_may_be_anything(at: int) -> None:
    payload = bytearray(RICH)
    for value in (0, 1, 0x7F, 0x80, 0xFF):
        payload[at] = value
        try:
            read_events(bytes(payload), 100, MIB)
        except ArrowError:
            continue


def many(n: int) -> bytes:
    ids = pa.array([f"user-{row % 1000}" for row in range(n)])
    columns = {
        "user_id": ids.dictionary_encode(),
        "message_id": pa.array([f"m{row}" for row in range(n)]),
        "action": pa.array(["view", "buy"] * (n // 2)),
        "item_id": ids,
        "event_time": stamps(*range(NOW - n, NOW)),
    }
    return ipc(batch_of(columns))


def objects_made(work: Callable[[], object]) -> int:
    """Python objects alive because of what `work` returns."""
    work()
    gc.collect()
    before = sys.getallocatedblocks()
    kept = work()
    gc.collect()
    made = sys.getallocatedblocks() - before
    del kept
    return made


def test_reading_and_checking_makes_no_python_object_per_row() -> None:
    def way(payload: bytes) -> object:
        batch = read_events(payload, 100_000, 32 * MIB)
        return arrive(batch, [Call(0, batch.size, CallOptions())], EventLimits(), {"view": 2}, NOW)

    few, lots = many(100), many(20_000)
    tracemalloc.start(1)
    assert objects_made(lambda: way(lots)) - objects_made(lambda: way(few)) < 200
    tracemalloc.reset_peak()
    way(lots)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000 * 400, "columns, not rows: an object per row would cost more than all the columns"
