"""Message ids for events that came without one (the key of idempotency must always be there)."""

import binascii

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nextact_server.events.batch import (
    BINARY_COLUMNS,
    MISSING_TIME,
    STRING_COLUMNS,
    TIME_COLUMNS,
    EventBatch,
)
from nextact_server.events.hashing import byte_lengths, combine, hash_strings

HEX_DIGITS = 32
FIELD_SEEDS = {
    name: seed
    for seed, name in enumerate((*STRING_COLUMNS, *BINARY_COLUMNS, *TIME_COLUMNS), start=1)
    if name != "message_id"
}


def with_message_ids(batch: EventBatch, boundaries: NDArray[np.int64]) -> tuple[pa.Array, NDArray[np.bool_]]:
    """The message ids of a batch, string[n], and which of them were derived, bool[n].

    A derived id is the hash of all fields of the event and of its occurrence number among the equal events of its
    message, so the same message sent again derives the same ids. `boundaries` int64[c + 1] are the rows where the
    c messages of the batch begin and end.
    """
    if batch.message_id is None:
        derived = np.ones(batch.size, np.bool_)
    else:
        derived = byte_lengths(batch.message_id) == 0
        if not derived.any():
            return batch.message_id, derived
    ids = _derive(batch, boundaries, derived)
    if batch.message_id is None or derived.all():
        return ids, derived
    return pc.if_else(pa.array(derived), ids, batch.message_id), derived


def _derive(batch: EventBatch, boundaries: NDArray[np.int64], wanted: NDArray[np.bool_]) -> pa.Array:
    """Ids string[n] that are those asked for in the rows `wanted` bool[n]; the others are of no meaning."""
    message = np.repeat(np.arange(len(boundaries) - 1, dtype=np.uint64), np.diff(boundaries))
    key = np.zeros((batch.size, 2), np.uint64)
    for name, column in batch.columns():
        seed = FIELD_SEEDS.get(name)
        if seed is None:
            continue
        if isinstance(column, np.ndarray):
            given = column != MISSING_TIME
            lane = _lanes(column.view(np.uint64), seed)
        else:
            given = byte_lengths(column) > 0
            lane = hash_strings(column, seed)
        # A field that is not given leaves no trace: whether its column exists depends on the other events.
        key = np.where(given[:, None], combine(key, lane), key)
    occurrence = np.zeros(batch.size, np.int64)
    occurrence[wanted] = _occurrences(key[wanted], message[wanted])
    if occurrence.any():
        # Only the repetitions are marked: the first must not depend on whether others of the burst are repeated.
        marked = combine(key, _lanes(occurrence.astype(np.uint64), 0))
        key = np.where(occurrence[:, None] > 0, marked, key)
    digits = binascii.hexlify(np.ascontiguousarray(key.astype("<u8")).tobytes())
    offsets = np.arange(batch.size + 1, dtype=np.int32) * HEX_DIGITS
    return pa.StringArray.from_buffers(batch.size, pa.py_buffer(offsets), pa.py_buffer(digits))


def _lanes(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Numbers uint64[n] as something to combine, uint64[n, 2]: both halves of the hash must depend on them."""
    return np.stack([numbers ^ np.uint64(seed), numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)], axis=1)


def _occurrences(key: NDArray[np.uint64], message: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many equal keys of the same message come before each row: int64[n]."""
    order = np.lexsort((key[:, 1], key[:, 0], message))
    ordered, messages = key[order], message[order]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1) | (messages[1:] != messages[:-1])
    positions = np.arange(len(order))
    counts = np.empty(len(order), np.int64)
    counts[order] = positions - np.maximum.accumulate(np.where(fresh, positions, 0))
    return counts
