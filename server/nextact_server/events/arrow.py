"""Arrow IPC to EventBatch, without a Python object per event.

Nothing in the bytes is trusted: buffers are validated in full, compressed ones are refused (a few KiB can hold
gigabytes), and dictionaries are decoded only after their decoded size is known to be within the limit.
Format: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
"""

import struct
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nextact_server.events.batch import BINARY_COLUMNS, MISSING_TIME, STRING_COLUMNS, TIME_COLUMNS, EventBatch

COLUMNS = frozenset((*STRING_COLUMNS, "image", *TIME_COLUMNS))
RECORD_BATCH_HEADER = 3
COMPRESSION_SLOT = 3
MAX_SHOWN = 64
"""Most characters of a foreign name that an error repeats."""


class ArrowError(ValueError):
    """The bytes are not the record batch that the contract names; the message says which column and why."""


def read_events(ipc: bytes, max_events: int, max_decoded_bytes: int) -> EventBatch:
    """The events of one Arrow IPC stream holding one record batch.

    Raises:
        ArrowError: not an IPC stream, not one record batch, compressed, more than `max_events` rows, a missing,
            unknown or wrongly typed column, or dictionaries that decode to more than `max_decoded_bytes`.
    """
    try:
        return _checked(_read_batch(ipc), max_events, max_decoded_bytes)
    except ArrowError:
        raise
    except (pa.ArrowException, ValueError, OSError, struct.error) as error:
        # Whatever Arrow finds wrong with the bytes, a column's name that is no UTF-8 included.
        what = str(error).splitlines()[0] if str(error) else repr(error)
        raise ArrowError(f"not a valid Arrow IPC stream: {what}") from error


def _checked(batch: pa.RecordBatch, max_events: int, max_decoded_bytes: int) -> EventBatch:
    if batch.num_rows > max_events:
        raise ArrowError(f"{batch.num_rows} events; at most {max_events} are allowed (max_stream_events)")
    names = batch.schema.names
    if unknown := sorted(set(names) - COLUMNS):
        raise ArrowError(f"unknown column {unknown[0][:MAX_SHOWN]!r}; known are {', '.join(sorted(COLUMNS))}")
    if len(set(names)) < len(names):
        raise ArrowError(f"column {Counter(names).most_common(1)[0][0]!r} is there more than once")
    for required in ("action", "event_time"):
        if required not in names:
            raise ArrowError(f"column {required!r} is missing; it is required")
    if "user_id" not in names and "anonymous_id" not in names:
        raise ArrowError("columns 'user_id' and 'anonymous_id' are both missing; one is required")
    columns: dict[str, Any] = {}
    for name in names:
        column = batch.column(name)
        if name in TIME_COLUMNS:
            columns[name] = _microseconds(name, column)
        else:
            columns[name] = _values(name, column, max_decoded_bytes)
    return EventBatch(size=batch.num_rows, **columns)


def _read_batch(ipc: bytes) -> pa.RecordBatch:
    batches = 0
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(ipc)):
        batches += message.type == "record batch"
        if message.type != "schema" and _is_compressed(message.metadata.to_pybytes(), message.type):
            raise ArrowError("compressed buffers are not accepted; leave the batch uncompressed")
    if batches != 1:
        raise ArrowError(f"{batches} record batches in one message; exactly one is expected")
    batch = pa.ipc.open_stream(pa.py_buffer(ipc)).read_next_batch()
    batch.validate(full=True)
    return batch


def _is_compressed(metadata: bytes, kind: str) -> bool:
    """Whether a message's RecordBatch header (in a dictionary batch: its inner one) has a `compression` field."""
    message = _table(metadata, struct.unpack_from("<I", metadata, 0)[0])
    header = _child(metadata, message, 2)
    if header is not None and kind == "dictionary":
        header = _child(metadata, _table(metadata, header), 1)
    if header is None:
        return False
    return _field(metadata, _table(metadata, header), COMPRESSION_SLOT) is not None


def _table(data: bytes, position: int) -> tuple[int, int]:
    """Position of a flatbuffers table and of its vtable."""
    return position, position - int(struct.unpack_from("<i", data, position)[0])


def _field(data: bytes, table: tuple[int, int], slot: int) -> int | None:
    """Position of a field of a flatbuffers table, None if absent."""
    position, vtable = table
    if 4 + 2 * slot >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = int(struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0])
    return position + offset if offset else None


def _child(data: bytes, table: tuple[int, int], slot: int) -> int | None:
    """Position of the table that a field of a flatbuffers table points to, None if absent."""
    field = _field(data, table, slot)
    return None if field is None else field + int(struct.unpack_from("<I", data, field)[0])


def _microseconds(name: str, column: pa.Array) -> NDArray[np.int64]:
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise ArrowError(f"column {name!r} is {column.type}; a timestamp with time zone is expected")
    if column.type.unit == "ns":
        # Rounded down, as in rows; a cast would round towards 1970.
        nanoseconds = column.cast(pa.int64())
        floored = np.floor_divide(nanoseconds.fill_null(0).to_numpy(zero_copy_only=False), 1000)
        return np.where(nanoseconds.is_null().to_numpy(zero_copy_only=False), MISSING_TIME, floored)
    try:
        cast = pc.cast(column, pa.timestamp("us", column.type.tz))
    except pa.ArrowInvalid as error:
        raise ArrowError(f"column {name!r} has a time out of the range of microseconds") from error
    values = pc.fill_null(cast.cast(pa.int64()), MISSING_TIME)
    return values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _values(name: str, column: pa.Array, max_decoded_bytes: int) -> pa.Array:
    wanted = pa.binary() if name in BINARY_COLUMNS else pa.string()
    kind = column.type
    if pa.types.is_dictionary(kind):
        if kind.value_type not in (pa.string(), pa.large_string()) or wanted != pa.string():
            raise ArrowError(f"column {name!r} is {kind}; {_expected(name)} is expected")
        column.dictionary.validate(full=True)
        decoded = pc.sum(pc.take(pc.binary_length(column.dictionary), column.indices)).as_py() or 0
        if decoded > max_decoded_bytes:
            raise ArrowError(
                f"column {name!r} decodes to {decoded} bytes; at most {max_decoded_bytes} are allowed "
                "(max_message_bytes)"
            )
        column = column.dictionary_decode()
    elif kind not in (wanted, pa.large_binary() if wanted == pa.binary() else pa.large_string()):
        raise ArrowError(f"column {name!r} is {kind}; {_expected(name)} is expected")
    return column if column.type == wanted else column.cast(wanted)


def _expected(name: str) -> str:
    return "binary" if name in BINARY_COLUMNS else "string or dictionary of string"
