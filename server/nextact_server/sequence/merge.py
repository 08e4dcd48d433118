"""Many arrivals as one: the columns of a batch, and back to the arrivals it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.events.batch import MISSING_TIME
from nextact_server.events.call import Arrival, Call
from nextact_server.storage.seam import HISTORY_SCHEMA


@dataclass(frozen=True, slots=True)
class Merged:
    """Arrivals side by side: columns over all their rows, and which call each row belongs to.

    `offsets` int64[a + 1] are the rows where the arrivals begin; `call` int64[n] numbers the calls through all
    arrivals, `first_call` int64[a + 1] says which number each arrival's first call has.
    """

    arrivals: Sequence[Arrival]
    calls: Sequence[Call]
    offsets: NDArray[np.int64]
    first_call: NDArray[np.int64]
    call: NDArray[np.int64]
    valid: NDArray[np.bool_]
    identified: NDArray[np.bool_]
    user_key: NDArray[np.uint64]
    message_key: NDArray[np.uint64]
    item_key: NDArray[np.uint64]
    has_item: NDArray[np.bool_]
    action: NDArray[np.int64]
    event_time: NDArray[np.int64]
    content_hash: NDArray[np.uint8]
    content_rows: NDArray[np.int64]
    content: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.call)

    def received(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """When the rows arrived, in microseconds."""
        at = np.searchsorted(self.offsets, rows, side="right") - 1
        return np.array([arrival.received_us for arrival in self.arrivals], np.int64)[at]

    def sent_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """When the clients sent the rows, in microseconds, MISSING_TIME where they do not say."""
        if all(arrival.batch.sent_at is None for arrival in self.arrivals):
            return np.full(len(rows), MISSING_TIME, np.int64)
        parts = [
            np.full(arrival.batch.size, MISSING_TIME, np.int64)
            if arrival.batch.sent_at is None
            else arrival.batch.sent_at
            for arrival in self.arrivals
        ]
        return np.concatenate(parts)[rows]

    def raw(self, rows: NDArray[np.int64]) -> pa.RecordBatch:
        """The columns of the given rows (ascending) as they came, for the history."""
        whole = len(rows) == len(self)
        columns = []
        for field in HISTORY_SCHEMA:
            parts = [_raw_column(arrival, field) for arrival in self.arrivals]
            column = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
            columns.append(column if whole else column.take(pa.array(rows)))
        return pa.RecordBatch.from_arrays(columns, schema=HISTORY_SCHEMA)


def merge(arrivals: Sequence[Arrival], alive: Sequence[Sequence[bool]]) -> Merged:
    """Lays arrivals side by side; rows of calls that are not `alive` any more count as neither valid nor identified."""
    sizes = np.array([arrival.batch.size for arrival in arrivals], np.int64)
    offsets = np.zeros(len(arrivals) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    first_call = np.zeros(len(arrivals) + 1, np.int64)
    np.cumsum([len(arrival.calls) for arrival in arrivals], out=first_call[1:])
    calls = [call for arrival in arrivals for call in arrival.calls]
    call = np.repeat(np.arange(len(calls)), [call.stop - call.start for call in calls])
    valid = _joined([arrival.valid for arrival in arrivals])
    identified = _joined([arrival.identified for arrival in arrivals])
    if not all(all(flags) for flags in alive):
        kept = np.array([flag for flags in alive for flag in flags], np.bool_)[call]
        valid, identified = valid & kept, identified & kept
    with_content = [
        (arrival.content_rows + offset, arrival.content)
        for arrival, offset in zip(arrivals, offsets.tolist(), strict=False)
        if len(arrival.content_rows)
    ]
    return Merged(
        arrivals=arrivals,
        calls=calls,
        offsets=offsets,
        first_call=first_call,
        call=call,
        valid=valid,
        identified=identified,
        user_key=_joined([arrival.user_key for arrival in arrivals]),
        message_key=_joined([arrival.message_key for arrival in arrivals]),
        item_key=_joined([arrival.item_key for arrival in arrivals]),
        has_item=_joined([arrival.has_item for arrival in arrivals]),
        action=_joined([arrival.action for arrival in arrivals]),
        event_time=_joined([arrival.batch.event_time for arrival in arrivals]),
        content_hash=_joined([arrival.content_hash for arrival in arrivals]),
        content_rows=np.concatenate([rows for rows, _ in with_content]) if with_content else np.zeros(0, np.int64),
        content=np.concatenate([vectors for _, vectors in with_content])
        if with_content
        else np.zeros((0, 0), np.float32),
    )


def _joined(parts: list[NDArray]) -> NDArray:  # type: ignore[type-arg]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _raw_column(arrival: Arrival, field: pa.Field) -> pa.Array:
    column = arrival.message_ids if field.name == "message_id" else getattr(arrival.batch, field.name)
    return pa.nulls(arrival.batch.size, field.type) if column is None else column
