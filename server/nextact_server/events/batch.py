"""EventBatch: events as columns, the one form in which they go through the server."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MISSING_TIME = np.iinfo(np.int64).min
"""The time of an event that carries none."""

STRING_COLUMNS = ("message_id", "user_id", "anonymous_id", "action", "item_id", "session_id", "text")
BINARY_COLUMNS = ("image", "properties")
TIME_COLUMNS = ("event_time", "sent_at")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events of one or many calls, in order of arrival; a column that no event carries is None.

    Strings are Arrow `string` arrays, `image` and `properties` (a serialized Struct) Arrow `binary` arrays, empty or
    null where an event has none. Times are int64[n] microseconds since the epoch, MISSING_TIME where absent.
    """

    size: int
    event_time: NDArray[np.int64]
    sent_at: NDArray[np.int64] | None = None
    message_id: pa.Array | None = None
    user_id: pa.Array | None = None
    anonymous_id: pa.Array | None = None
    action: pa.Array | None = None
    item_id: pa.Array | None = None
    session_id: pa.Array | None = None
    text: pa.Array | None = None
    image: pa.Array | None = None
    properties: pa.Array | None = None

    def slice(self, start: int, stop: int) -> "EventBatch":
        """Events start..stop as a batch over the same memory."""
        columns: dict[str, Any] = {
            name: column[start:stop] if isinstance(column, np.ndarray) else column.slice(start, stop - start)
            for name, column in self.columns()
        }
        return EventBatch(size=stop - start, **columns)

    def columns(self) -> Iterator[tuple[str, pa.Array | NDArray[np.int64]]]:
        """Name and values of each column that is there."""
        for field in fields(self):
            if field.name != "size" and (column := getattr(self, field.name)) is not None:
                yield field.name, column


def concatenate(batches: list[EventBatch]) -> EventBatch:
    """The events of all batches, in order."""
    if len(batches) == 1:
        return batches[0]
    columns: dict[str, Any] = {"event_time": np.concatenate([batch.event_time for batch in batches])}
    if any(batch.sent_at is not None for batch in batches):
        missing = [np.full(b.size, MISSING_TIME, np.int64) if b.sent_at is None else b.sent_at for b in batches]
        columns["sent_at"] = np.concatenate(missing)
    for name in STRING_COLUMNS + BINARY_COLUMNS:
        parts = [getattr(batch, name) for batch in batches]
        if any(part is not None for part in parts):
            kind = pa.string() if name in STRING_COLUMNS else pa.binary()
            columns[name] = pa.concat_arrays(
                [pa.nulls(b.size, kind) if part is None else part for b, part in zip(batches, parts, strict=True)]
            )
    return EventBatch(size=sum(batch.size for batch in batches), **columns)
