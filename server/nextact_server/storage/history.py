"""Every user's events in the order of arrival: rows in chunks, chained per user from the newest back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.storage.chunk import ROW, Chunk, concat_batches
from nextact_server.storage.seam import HISTORY_SCHEMA, EventRows

CHUNK_ROWS = 1024


class History:
    """Rows numbered in the order of arrival. A number is for ever; cutting rows out moves no other.

    Writers hold a lock. Readers need none: they start from a row number that was handed to them after it was written.
    """

    def __init__(self, chunk_rows: int = CHUNK_ROWS) -> None:
        self._chunk_rows = chunk_rows
        self._chunks: list[Chunk | None] = []

    @property
    def next_row(self) -> int:
        """The number that the next row gets; those after it follow without a gap."""
        tail = self._chunks[-1] if self._chunks else None
        if tail is None or tail.full:
            return len(self._chunks) * self._chunk_rows
        return tail.start + tail.count

    def append(self, events: EventRows, previous: NDArray[np.int64]) -> None:
        """Appends n rows, each with the number of its user's row before it (-1: none)."""
        done = 0
        while done < len(events):
            tail = self._chunks[-1] if self._chunks else None
            if tail is None or tail.full:
                tail = Chunk(len(self._chunks) * self._chunk_rows, self._chunk_rows)
                self._chunks.append(tail)
            stop = min(len(events), done + self._chunk_rows - tail.count)
            tail.append(events, previous, done, stop)
            done = stop

    def walk(self, row: int) -> Iterator[tuple[int, bool]]:
        """Numbers of a row and of those of its user before it, and whether each was applied; -1 walks nowhere.

        Ends early where the user was erased meanwhile.
        """
        chunks, size = self._chunks, self._chunk_rows
        while row >= 0:
            chunk = chunks[row // size]
            local = chunk.local(row) if chunk is not None else -1
            if chunk is None or local < 0:
                return
            yield row, chunk.applied.item(local)
            row = chunk.previous.item(local)

    def before(self, row: int, user: int) -> int:
        """The row of a user before a given one; -1 also where the given one is not a row of this user."""
        chunk = self._chunks[row // self._chunk_rows] if 0 <= row < self.next_row else None
        local = chunk.local(row) if chunk is not None else -1
        if chunk is None or local < 0 or chunk.rows["user"][local] != user:
            return -1
        return int(chunk.previous[local])

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """The numeric columns (`chunk.ROW`) of rows that were walked, in the order asked for, as far as still there."""
        parts = [chunk.rows[local] for chunk, local in self._located(numbers)]
        return np.concatenate(parts) if parts else np.zeros(0, ROW)

    def rows_and_raw(self, numbers: NDArray[np.int64]) -> tuple[NDArray[Any], pa.RecordBatch]:
        """The numeric and the raw columns of the same rows, as `rows`."""
        located = list(self._located(numbers))
        if not located:
            return np.zeros(0, ROW), pa.RecordBatch.from_pylist([], schema=HISTORY_SCHEMA)
        rows = np.concatenate([chunk.rows[local] for chunk, local in located])
        return rows, concat_batches([chunk.raw(local) for chunk, local in located])

    def cut(self, numbers: NDArray[np.int64]) -> None:
        """Removes rows, numbers and raw columns alike, and frees what they occupied."""
        index = numbers // self._chunk_rows
        for at in np.unique(index).tolist():
            chunk = self._chunks[at]
            if chunk is not None:
                # A chunk that is cut takes no further rows: the next one begins at its own number.
                self._chunks[at] = chunk.without(chunk.locate(numbers[index == at]))

    def _located(self, numbers: NDArray[np.int64]) -> Iterator[tuple[Chunk, NDArray[np.int64]]]:
        """Chunk by chunk, where the rows lie; neighbours in the order asked for that share a chunk come together."""
        if not len(numbers):
            return
        edges = np.flatnonzero(np.diff(numbers // self._chunk_rows)) + 1
        for part in np.split(numbers, edges):
            chunk = self._chunks[int(part[0]) // self._chunk_rows]
            if chunk is not None:
                yield chunk, chunk.locate(part)
