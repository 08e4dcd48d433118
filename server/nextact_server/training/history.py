"""What came before an event: whose it is, the items seen until then, and the last of them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from nextact_server.training.sequences import ABSENT, Bool, Int64, Sequences

NEVER: Final = int(np.iinfo(np.int32).max)
"""Place of an item that does not occur."""


def owners(sequences: Sequences, rows: Int64) -> Int64:
    """Return int64[m], the number of the user of each row."""
    return np.searchsorted(sequences.starts, rows, side="right") - 1


def runs(start: Int64, stop: Int64) -> tuple[Int64, Int64]:
    """Return the numbers from `start[i]` up to `stop[i]` for each i in turn, and the i of each, both int64[n]."""
    length = stop - start
    which = np.repeat(np.arange(len(length)), length)
    return np.arange(len(which)) - (np.cumsum(length) - length)[which] + start[which], which


def first_seen(sequences: Sequences, begin: Int64, stop: Int64, items: int) -> npt.NDArray[np.int32]:
    """Return int32[w, items]: of rows `begin[i]` up to `stop[i]`, how many come before the first with each item.

    NEVER for an item that none of them has.
    """
    past, run = runs(begin, stop)
    item = sequences.item[past]
    there = item != ABSENT
    first = np.full((len(begin), items), NEVER, dtype=np.int32)
    # Plain assignment does not say which of several values for one place stays.
    cell = run[there] * items + item[there]
    np.minimum.at(first.reshape(-1), cell, (past - begin[run])[there].astype(np.int32))
    return first


def seen_before(sequences: Sequences, rows: Int64, items: int) -> Bool:
    """Return bool[m, items]: which items occur in the events of each row's user before that row.

    `rows` int64[m] ascend. Needs 4 bytes for each item and each user that has a row.
    """
    users, at, slot = np.unique(owners(sequences, rows), return_index=True, return_inverse=True)
    begin, stop = sequences.starts[users], rows[np.append(at[1:], len(rows)) - 1]
    first = first_seen(sequences, begin, stop, items)
    place = (rows - begin[slot]).astype(np.int32)
    seen: Bool = (first if len(users) == len(rows) else first[slot]) < place[:, None]
    return seen


def last_items(sequences: Sequences, rows: Int64, reach: int, counted: Bool) -> Int64:
    """Return int64[m, reach]: the items of the last events before each row among its user's, the latest first.

    Only events that `counted` bool[n] marks are looked at; ABSENT where there were fewer.
    """
    place = np.append(np.flatnonzero(counted), ABSENT)
    number = np.concatenate(([0], np.cumsum(counted)))
    newest = number[rows][:, None] - 1 - np.arange(reach)
    there = newest >= number[sequences.starts[owners(sequences, rows)]][:, None]
    return np.where(there, sequences.item[place[np.where(there, newest, -1)]], ABSENT)
