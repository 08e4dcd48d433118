"""Results and predictions straight to protobuf's wire format.

An answer to one event is some hundred bytes that take protobuf's Python objects longer to hold than the model takes to
make. So the messages that every Predict carries are laid out here, from columns to bytes; fields and numbers are those
of behavior.proto, and a test holds them against the generated code. Encoded messages can be concatenated: fields that
follow later are merged (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.call import Answer, NextColumns, Predictions, Want
from nextact_server.events.status import Status

# As plain numbers: operators of enums are slow, and these run per event.
EMBEDDING, ACTIONS, ITEMS, NEXT = (int(want) for want in (Want.EMBEDDING, Want.ACTIONS, Want.ITEMS, Want.NEXT))
ACCEPTED, INVALID, SUPPRESSED = int(Status.ACCEPTED), int(Status.INVALID), int(Status.SUPPRESSED)

RESULTS_TAG, PREDICTIONS_TAG = b"\x0a", b"\x12"
"""PredictResponse.results and .predictions."""
STREAM_PREDICTIONS_TAG = b"\x2a"
"""StreamEventsResponse.predictions."""
_SMALL = [bytes((number,)) for number in range(128)]
_ALL_ONES = (1 << 64) - 1
_NEXT_FLOATS = ("expected_gap_s", "leave_probability", "horizon_s")
"""The fields of Next, in the order of their numbers, 1 to 3."""
_NEXT = np.dtype(
    [("tag", "u1"), ("length", "u1")]
    + [column for name in _NEXT_FLOATS for column in ((f"tag of {name}", "u1"), (name, "<f4"))]
)
"""Prediction.next with its tag, one element for each row."""


def varint(number: int) -> bytes:
    """A non-negative number as protobuf writes it."""
    if number < 128:
        return _SMALL[number]
    out = bytearray()
    while number > 127:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def text_field(tag: bytes, text: str) -> bytes:
    """A string field; nothing if it is empty."""
    if not text:
        return b""
    data = text.encode()
    return tag + varint(len(data)) + data


class ResultWriter:
    """EventResults of an answer's rows."""

    def __init__(self, answer: Answer) -> None:
        self._ids = answer.arrival.message_ids.to_pylist()
        self._derived = answer.arrival.derived.tolist()
        self._status = answer.status.tolist()
        self._original = answer.original.tolist()
        self._applied = answer.applied.tolist()
        self._faults = answer.arrival.faults

    def field(self, row: int, index: int) -> bytes:
        """One result as an element of PredictResponse.results."""
        if self._status[row] != ACCEPTED:
            body = self.message(row, index).SerializeToString()
        else:
            body = b"\x08" + varint(index) if index else b""
            body += text_field(b"\x12", self._ids[row]) + b"\x18\x01"
            if self._applied[row]:
                body += b"\x38\x01"
            if self._derived[row]:
                body += b"\x40\x01"
        return RESULTS_TAG + varint(len(body)) + body

    def message(self, row: int, index: int) -> pb.EventResult:
        """One result, numbered `index`."""
        status = self._status[row]
        result = pb.EventResult(
            index=index,
            message_id=self._ids[row],
            status=status,
            original_status=self._original[row],
            applied=self._applied[row],
            id_derived=self._derived[row],
        )
        fault = self._faults.get(row)
        if status == SUPPRESSED:
            result.reason, result.field = "the user asked not to be recorded", "user_id"
        elif fault is not None:
            result.reason, result.field = fault.reason, fault.field
        elif status == INVALID:
            result.reason = "the call was taken back"
        return result


class PredictionWriter:
    """Predictions of an answer, row by row of its columns; knows how actions are called."""

    def __init__(self, actions: Sequence[str]) -> None:
        self._actions = [_scored(b"\x1a", action) for action in actions]

    def fields(self, answer: Answer, columns: Predictions, item_ids: Sequence[str], tag: bytes) -> list[bytes]:
        """Each prediction as an element of the repeated field with the given tag.

        `item_ids` are those of `columns.item_rows`, flattened; they are not read where that is -1.
        """
        calls = answer.arrival.calls
        users = ids_of(answer.arrival.batch.user_id, columns.row)
        visitors = ids_of(answer.arrival.batch.anonymous_id, columns.row)
        embedding = _Floats(columns.embedding)
        scores = [] if columns.actions is None else columns.actions.tolist()
        actions = _Floats(columns.actions)
        items = _Floats(columns.item_scores)
        kept = [] if columns.item_rows is None else (columns.item_rows >= 0).sum(axis=1).tolist()
        nexts = [] if columns.next is None else _next_fields(columns.next)
        made = []
        rows = zip(columns.call.tolist(), columns.row.tolist(), columns.events_seen.tolist(), strict=True)
        for at, (number, row, events_seen) in enumerate(rows):
            call = calls[number]
            want = call.options.want
            parts = [text_field(b"\x0a", users[at])]
            if embedding.width and want & EMBEDDING:
                parts += (b"\x12", embedding.length, embedding.row(at))
            if scores and want & ACTIONS:
                mine = scores[at]
                for action in sorted(range(len(mine)), key=mine.__getitem__, reverse=True):
                    parts += (self._actions[action], actions.one(at, action))
            if items.width and want & ITEMS:
                for rank in range(kept[at]):
                    parts += (_scored(b"\x22", item_ids[at * items.width + rank]), items.one(at, rank))
            if nexts and want & NEXT:
                parts.append(nexts[at])
            if events_seen:
                parts += (b"\x30", varint(events_seen))
            if index := row - call.start - call.history:
                parts += (b"\x38", varint(index & _ALL_ONES))  # negative for a user whom only the history names
            if not users[at]:
                parts.append(text_field(b"\x42", visitors[at]))
            body = b"".join(parts)
            made.append(tag + varint(len(body)) + body)
        return made


class _Floats:
    """A float32 matrix as little-endian bytes, cut by row or by element; width 0 where there is none."""

    def __init__(self, matrix: NDArray[np.float32] | None) -> None:
        self.width = 0 if matrix is None else matrix.shape[1]
        self._data = b"" if matrix is None else np.ascontiguousarray(matrix, "<f4").tobytes()
        self.length = varint(4 * self.width)

    def row(self, at: int) -> bytes:
        return self._data[4 * self.width * at : 4 * self.width * (at + 1)]

    def one(self, at: int, column: int) -> bytes:
        start = 4 * (self.width * at + column)
        return self._data[start : start + 4]


def _next_fields(columns: NextColumns) -> list[bytes]:
    """Prediction.next of every row: a message of three floats, laid out for all rows at once."""
    fields = np.zeros(len(columns.expected_gap_s), _NEXT)
    fields["tag"], fields["length"] = 0x2A, _NEXT.itemsize - 2
    for number, name in enumerate(_NEXT_FLOATS, start=1):
        fields[f"tag of {name}"] = number << 3 | 5
        fields[name] = getattr(columns, name)
    return [bytes(field) for field in fields.view(f"V{_NEXT.itemsize}").tolist()]


def _scored(tag: bytes, name: str) -> bytes:
    """An ActionScore or ItemScore up to its score, which is to follow as four bytes."""
    named = text_field(b"\x0a", name) + b"\x15"
    return tag + varint(len(named) + 4) + named


def ids_of(column: pa.Array | None, rows: NDArray[np.int64]) -> list[str]:
    """Ids in the given rows of a column, '' where there are none."""
    if column is None:
        return [""] * len(rows)
    if not np.array_equal(rows, np.arange(len(column))):
        column = column.take(pa.array(rows))
    return [value or "" for value in column.to_pylist()]
