"""Events as the store keeps them, in memory and on disk: numbers in one structured array, strings end to end."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.storage.chunk import concat_batches
from nextact_server.storage.seam import HASH_BYTES, HISTORY_SCHEMA, EventRows

_FIELDS = len(HISTORY_SCHEMA)
RECORD = np.dtype(
    [
        ("number", "<i8"),
        ("user", "<u8", (2,)),
        ("message", "<u8", (2,)),
        ("status", "i1"),
        ("applied", "?"),
        ("has_item", "?"),
        ("action_code", "<i4"),
        ("event_time_us", "<i8"),
        ("effective_time_us", "<i8"),
        ("gap_us", "<i8"),
        ("sent_at_us", "<i8"),
        ("received_us", "<i8"),
        ("item_key", "<u8", (2,)),
        ("content_hash", "u1", (HASH_BYTES,)),
        ("lengths", "<i4", (_FIELDS,)),
    ]
)
"""One event. `number` counts the store's events in the order of their commits; `user` and `message` are keys on disk;
`lengths` are those of the raw columns in bytes, -1 for null."""
_COPIED = (
    "status", "applied", "has_item", "action_code", "event_time_us", "effective_time_us", "gap_us", "sent_at_us",
    "received_us", "item_key", "content_hash",
)  # fmt: skip
_HEAD = struct.Struct("<I")


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """n events. Immutable."""

    rows: NDArray[Any]
    """[n] of `RECORD`."""
    data: bytes | memoryview
    """The raw columns, event by event, within an event in the order of `HISTORY_SCHEMA`."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return int(self.rows.nbytes) + len(self.data)

    def offsets(self) -> NDArray[np.int64]:
        """[n + 1] where in `data` each event begins. Made anew by every call: most readers of events do not ask."""
        offsets = np.zeros(len(self.rows) + 1, np.int64)
        np.cumsum(np.maximum(self.rows["lengths"], 0).sum(axis=1), out=offsets[1:])
        return offsets

    def take(self, order: NDArray[np.int64]) -> "Records":
        """The events at the given places, in that order."""
        whole = pa.Array.from_buffers(
            pa.binary(), len(self), [None, pa.py_buffer(self.offsets().astype(np.int32)), pa.py_buffer(self.data)]
        )
        return Records(self.rows[order], _payload(whole.take(pa.array(order))))

    def columns(self) -> pa.RecordBatch:
        """The raw columns, of `HISTORY_SCHEMA`."""
        n = len(self)
        lengths = self.rows["lengths"].reshape(-1)
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
        present = pa.py_buffer(np.packbits(lengths >= 0, bitorder="little"))
        woven = pa.Array.from_buffers(
            pa.binary(), len(lengths), [present, pa.py_buffer(offsets), pa.py_buffer(self.data)]
        )
        by_column = woven.take(pa.array(np.arange(n * _FIELDS).reshape(n, _FIELDS).T.reshape(-1)))
        arrays = [by_column.slice(at * n, n).view(field.type) for at, field in enumerate(HISTORY_SCHEMA)]
        return pa.RecordBatch.from_arrays(arrays, schema=HISTORY_SCHEMA)

    def to_bytes(self) -> bytes:
        """As `from_bytes` reads it."""
        return b"".join([_HEAD.pack(len(self)), self.rows.tobytes(), self.data])


NO_RECORDS = Records(np.zeros(0, RECORD), b"")


def count_in(raw: bytes) -> int:
    """How many events `from_bytes` would read."""
    return int(_HEAD.unpack_from(raw)[0])


def from_many(raws: Sequence[bytes]) -> Records:
    """The events of several strings of bytes as `from_bytes` reads them, in order."""
    if len(raws) == 1:
        return from_bytes(raws[0])
    size = RECORD.itemsize
    ends = [_HEAD.size + size * _HEAD.unpack_from(raw)[0] for raw in raws]
    rows = b"".join([raw[_HEAD.size : end] for raw, end in zip(raws, ends, strict=True)])
    data = b"".join([raw[end:] for raw, end in zip(raws, ends, strict=True)])
    return Records(np.frombuffer(rows, RECORD), data)


def from_bytes(raw: bytes | memoryview) -> Records:
    """Reads what `Records.to_bytes` or `pieces` wrote; shares the memory."""
    (n,) = _HEAD.unpack_from(raw)
    rows: NDArray[Any] = np.frombuffer(raw, RECORD, n, _HEAD.size)
    return Records(rows, memoryview(raw)[_HEAD.size + n * RECORD.itemsize :])


def concat(parts: Sequence[Records]) -> Records:
    """The events of several, in order."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return NO_RECORDS
    return Records(stacked([part.rows for part in parts]), b"".join([part.data for part in parts]))


def stacked(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of `RECORD` behind one another: as numpy's concatenate, which looks at every field of every part."""
    return np.frombuffer(b"".join([part.tobytes() for part in parts]), RECORD)


def pieces(records: Records, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Iterator[bytes]:
    """Runs of events, one after the other, each as `to_bytes` would write it."""
    numbers, data = records.rows.tobytes(), bytes(records.data)
    size = RECORD.itemsize
    offsets = records.offsets()
    first, last = offsets[starts].tolist(), offsets[stops].tolist()
    heads = {n: _HEAD.pack(n) for n in set((stops - starts).tolist())}
    for start, stop, begin, end in zip(starts.tolist(), stops.tolist(), first, last, strict=True):
        yield heads[stop - start] + numbers[start * size : stop * size] + data[begin:end]


def encode(
    parts: Sequence[EventRows], users: Sequence[NDArray[np.uint64]], messages: NDArray[np.uint64], first: int
) -> Records:
    """Events of one or more groups as records, numbered from `first`.

    Args:
        parts: the groups' events, in order.
        users: keys on disk [n, 2] of the users of each part.
        messages: keys on disk [n, 2] of all messages.
        first: number of the first event.
    """
    n = sum(map(len, parts))
    rows: NDArray[Any] = np.zeros(n, RECORD)
    rows["number"] = np.arange(first, first + n)
    rows["message"] = messages
    at = 0
    for part, keys in zip(parts, users, strict=True):
        here = rows[at : at + len(part)]
        here["user"] = keys
        for name in _COPIED:
            here[name] = getattr(part, name)
        at += len(part)
    # Column by column behind one another, then taken row by row: Arrow weaves them in one pass.
    whole = concat_batches([part.columns for part in parts])
    by_column = pa.concat_arrays([column.view(pa.binary()) for column in whole.columns])
    woven = by_column.take(pa.array(np.arange(n * _FIELDS).reshape(_FIELDS, n).T.reshape(-1)))
    presence, ends, _ = woven.buffers()
    lengths = np.diff(np.frombuffer(ends, np.int32, n * _FIELDS + 1, woven.offset * 4))
    if woven.null_count:
        bits = np.unpackbits(np.frombuffer(presence, np.uint8), count=woven.offset + n * _FIELDS, bitorder="little")
        lengths[bits[woven.offset :] == 0] = -1
    rows["lengths"] = lengths.reshape(n, _FIELDS)
    return Records(rows, _payload(woven))


def _payload(array: "pa.Array[Any]") -> bytes:
    """The bytes of all rows of a binary array, end to end; nulls have none."""
    _, offset_buffer, data = array.buffers()
    if data is None or not len(array):
        return b""
    ends = np.frombuffer(offset_buffer, np.int32, len(array) + 1, array.offset * 4)
    return memoryview(data)[int(ends[0]) : int(ends[-1])].tobytes()
