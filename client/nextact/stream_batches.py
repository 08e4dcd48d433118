"""From batches of events to the messages of a stream: rows or Arrow, cut to the limits, with message ids.

Ids are fixed here, before a message is first sent: what is sent again must be known as the same events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nextact import messages
from nextact.channel import MAX_MESSAGE_BYTES
from nextact.messages import PredictOptions
from nextact.types import EventLike, StreamPredictions
from nextact.v1 import behavior_pb2 as pb

MAX_EVENTS = 10_000
_BATCH_BYTES = MAX_MESSAGE_BYTES - 64 * 1024  # what the events leave for number, options and framing
_TIMES = ("event_time", "sent_at")

Batch: TypeAlias = Iterable[EventLike] | pa.RecordBatch | pa.Table
"""Events of one message: rows, or Arrow with columns named as the fields of Event."""


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message that lacks only its number; it holds `events` events of the source's batch `batch` from `offset` on."""

    request: pb.StreamEventsRequest
    batch: int
    offset: int
    events: int
    size: int


class BatchEncoder:
    """Turns the batches of one stream into messages.

    Args:
        predictions: which predictions every message asks for.
        options: what is asked of them.
        id_prefix: an event without message_id gets `<id_prefix>-<its row in the stream, from 0>`, so that the same
            source sent again under the same prefix is a DUPLICATE.
    """

    def __init__(self, predictions: StreamPredictions | str, options: PredictOptions, id_prefix: str) -> None:
        asked = StreamPredictions(predictions.upper())
        self._predictions: Any = pb.StreamPredictions.Value(f"STREAM_PREDICTIONS_{asked}")
        self._options = messages.options_message(options)
        self._id_prefix = id_prefix
        self._batches = 0
        self._rows = 0

    def messages(self, batch: Batch) -> Iterator[StreamMessage]:
        """Yields the messages of one batch: one, or more where the limits of one message demand it.

        Raises:
            ValueError, TypeError: an event that cannot be a message.
        """
        index, offset = self._batches, 0
        self._batches += 1
        if isinstance(batch, pa.RecordBatch):
            batch = pa.Table.from_batches([batch])
        parts = self._arrow(batch) if isinstance(batch, pa.Table) else self._row_parts(batch)
        for request, events in parts:
            request.predictions = self._predictions
            request.options.CopyFrom(self._options)
            size = request.ByteSize() + 11  # the number that it still gets: a tag and a varint
            yield StreamMessage(request, index, offset, events, size)
            offset += events

    def _row_parts(self, batch: Iterable[EventLike]) -> Iterator[tuple[pb.StreamEventsRequest, int]]:
        built = (messages.event_message(event, self._next_id()) for event in batch)
        for events in messages.chunks(built, lambda event: event.ByteSize() + 8, MAX_EVENTS, _BATCH_BYTES):
            yield pb.StreamEventsRequest(rows=pb.EventRows(events=events)), len(events)

    def _next_id(self) -> str:
        self._rows += 1
        return f"{self._id_prefix}-{self._rows - 1}"

    def _arrow(self, table: pa.Table) -> Iterator[tuple[pb.StreamEventsRequest, int]]:
        for start in range(0, table.num_rows, MAX_EVENTS):
            part = table.slice(start, MAX_EVENTS)
            ids = _numbered(self._id_prefix, self._rows, part.num_rows)
            self._rows += part.num_rows
            [batch] = _as_contract(part, ids).combine_chunks().to_batches()
            yield from _fitting(batch)


def _fitting(batch: pa.RecordBatch) -> Iterator[tuple[pb.StreamEventsRequest, int]]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    payload = sink.getvalue()
    if payload.size > _BATCH_BYTES and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _fitting(batch.slice(0, half))
        yield from _fitting(batch.slice(half))
    else:
        yield pb.StreamEventsRequest(arrow_ipc=payload.to_pybytes()), batch.num_rows


def _numbered(prefix: str, start: int, rows: int) -> pa.StringArray:
    numbers = pc.cast(pa.array(np.arange(start, start + rows)), pa.string())
    join: Any = pc.binary_join_element_wise  # its stub knows no mix of scalars and arrays
    joined: pa.StringArray = join(pa.scalar(prefix), numbers, pa.scalar("-"))
    return joined


def _as_contract(table: pa.Table, ids: pa.StringArray) -> pa.Table:
    """Writes the columns in the types that the contract names, where that changes no value, and adds message ids."""
    columns = {
        name: _column(name, table.column(name), table.num_rows)
        for name in table.column_names
        if not pa.types.is_null(table.schema.field(name).type)
    }
    given = columns.get("message_id")
    if given is None:
        columns["message_id"] = pa.chunked_array([ids])
    else:
        given = pc.cast(given, pa.string())
        empty: Any = pc.equal(given, pa.scalar(""))
        absent: Any = pc.fill_null(empty, True)
        columns["message_id"] = pc.if_else(absent, ids, given)
    return pa.table(columns)


def _column(name: str, column: pa.ChunkedArray[Any], rows: int) -> pa.ChunkedArray[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        # Every message carries the whole dictionary; beyond a value per row it only costs.
        large = any(len(chunk.dictionary) > rows for chunk in cast(list[Any], column.chunks))
        if kind.value_type == pa.string() and not large:
            return column
        return _column(name, pc.cast(column, kind.value_type), rows)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pc.cast(column, pa.binary())
    if name in _TIMES and pa.types.is_int64(kind):
        return pc.cast(column, pa.timestamp("us", tz="UTC"))
    return column
