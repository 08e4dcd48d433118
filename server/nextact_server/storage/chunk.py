"""A run of history rows: numbers in one structured array, raw columns as serialized Arrow batches."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.storage.seam import HASH_BYTES, HISTORY_SCHEMA, EventRows

_COPIED = (
    "user", "status", "applied", "event_time_us", "effective_time_us", "gap_us", "sent_at_us", "received_us",
    "item_key", "has_item", "action_code", "content_hash",
)  # fmt: skip
ROW = np.dtype(
    [
        ("user", np.int64),
        ("status", np.int8),
        ("applied", np.bool_),
        ("has_item", np.bool_),
        ("action_code", np.int32),
        ("event_time_us", np.int64),
        ("effective_time_us", np.int64),
        ("gap_us", np.int64),
        ("sent_at_us", np.int64),
        ("received_us", np.int64),
        ("item_key", np.uint64, (2,)),
        ("content_hash", np.uint8, (HASH_BYTES,)),
    ]
)
"""The numeric columns of `EventRows`."""

_SMALL_PARTS = 32
"""Raw parts of single calls that gather before they are merged to one."""


class Chunk:
    """Rows `start` to at most `start + capacity`.

    Rows are only ever added, and what is replaced (the raw parts) is replaced at once, so that readers need no lock.
    Raw parts are kept serialized, which copies them out of the message they came in.
    """

    __slots__ = ("_merged", "_numbers", "_raw", "applied", "count", "previous", "rows", "start")

    def __init__(self, start: int, capacity: int) -> None:
        self.start = start
        self.count = 0
        self.rows: NDArray[Any] = np.zeros(capacity, ROW)
        self.applied: NDArray[np.bool_] = self.rows["applied"]
        self.previous = np.full(capacity, -1, np.int64)
        """[capacity] the row of the same user before each row, -1 for the first."""
        self._numbers: NDArray[np.int64] | None = None
        self._raw: tuple[tuple[int, pa.Buffer], ...] = ()
        self._merged = 0

    @property
    def full(self) -> bool:
        """Whether no further row fits."""
        return self.count == len(self.rows)

    def append(self, events: EventRows, previous: NDArray[np.int64], first: int, stop: int) -> None:
        """Takes over rows first..stop of a group, for which there is room."""
        here = slice(self.count, self.count + stop - first)
        for name in _COPIED:
            self.rows[name][here] = getattr(events, name)[first:stop]
        self.previous[here] = previous[first:stop]
        self._raw = (*self._raw, (self.count, events.columns.slice(first, stop - first).serialize()))
        self.count += stop - first
        if self.full:
            self._merge(0)
        elif len(self._raw) - self._merged >= _SMALL_PARTS:
            self._merge(self._merged)
            self._merged += 1

    def local(self, row: int) -> int:
        """Where a row lies in this chunk, -1 if it was cut out."""
        if self._numbers is None:
            return row - self.start if row < self.start + self.count else -1
        at = int(self._numbers.searchsorted(row))
        return at if at < self.count and self._numbers[at] == row else -1

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows of this chunk lie in it, without those that were cut out."""
        if self._numbers is None:
            return rows - self.start
        at = np.minimum(self._numbers.searchsorted(rows), self.count - 1)
        found: NDArray[np.int64] = at[self._numbers[at] == rows]
        return found

    def raw(self, local: NDArray[np.int64]) -> pa.RecordBatch:
        """The raw columns of rows, in the order asked for."""
        parts = self._raw
        starts = [start for start, _ in parts]
        owner = np.searchsorted(starts, local, side="right") - 1
        wanted, which = np.unique(owner, return_inverse=True)
        batches = [_read(parts[part][1]) for part in wanted.tolist()]
        base = np.cumsum([0, *(len(batch) for batch in batches)])
        offsets = local - np.array(starts, np.int64)[owner] + base[which]
        taken: pa.RecordBatch = concat_batches(batches).take(pa.array(offsets))
        return taken

    def without(self, gone: NDArray[np.int64]) -> "Chunk | None":
        """This chunk, closed, without the rows at these places; None if none are left. Row numbers stay as they are."""
        stays = np.ones(self.count, np.bool_)
        stays[gone] = False
        kept = stays.nonzero()[0]
        if not len(kept):
            return None
        chunk = Chunk(self.start, 0)
        numbers = self._numbers if self._numbers is not None else np.arange(self.start, self.start + self.count)
        chunk._numbers = numbers[kept]
        chunk.count = len(kept)
        chunk.rows, chunk.previous = self.rows[kept], self.previous[kept]
        chunk.applied = chunk.rows["applied"]
        chunk._raw = ((0, self.raw(kept).serialize()),)
        return chunk

    def _merge(self, first: int) -> None:
        """Makes one part of the raw parts from `first` on."""
        parts = self._raw[first:]
        if len(parts) > 1:
            whole = concat_batches([_read(buffer) for _, buffer in parts]).serialize()
            self._raw = (*self._raw[:first], (parts[0][0], whole))


def concat_batches(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of the rows of several, at least one."""
    arrow: Any = pa  # the function is missing from pyarrow's stubs
    whole: pa.RecordBatch = arrow.concat_batches(batches)
    return whole


def _read(buffer: pa.Buffer) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(buffer, HISTORY_SCHEMA)
