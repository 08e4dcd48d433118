"""From columns to an Arrival: everything about events that needs no state, for all of them at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Arrival, Call
from nextact_server.events.hashing import byte_lengths, combine, hash_strings
from nextact_server.events.identity import user_keys
from nextact_server.events.message_id import with_message_ids
from nextact_server.events.status import Fault
from nextact_server.events.validation import EventLimits, check

UNKNOWN_ACTION = 1


def arrive(
    batch: EventBatch, calls: Sequence[Call], limits: EventLimits, actions: Mapping[str, int], now_us: int
) -> Arrival:
    """Checks and keys the events of calls that arrived together. `actions` maps names to the model's codes."""
    valid, faults = check(batch, limits, now_us)
    boundaries = np.array([0, *(call.stop for call in calls)], np.int64)
    message_ids, derived = with_message_ids(batch, boundaries)
    empty = pa.nulls(batch.size, pa.string())
    users, anonymous = batch.user_id or empty, batch.anonymous_id or empty
    user_key, _ = user_keys(users, anonymous)
    nothing = np.zeros((batch.size, 2), np.uint64)
    unidentified = [row for row, fault in faults.items() if fault.field in ("user_id", "anonymous_id")]
    identified = np.ones(batch.size, np.bool_)
    identified[unidentified] = False
    return Arrival(
        batch=batch,
        calls=tuple(calls),
        received_us=now_us,
        valid=valid,
        identified=identified,
        faults=faults,
        message_ids=message_ids,
        derived=derived,
        user_key=user_key,
        message_key=combine(user_key, hash_strings(message_ids)),
        item_key=nothing if batch.item_id is None else hash_strings(batch.item_id),
        has_item=np.zeros(batch.size, np.bool_) if batch.item_id is None else byte_lengths(batch.item_id) > 0,
        action=_action_codes(batch, actions),
        content_hash=np.zeros((batch.size, 16), np.uint8),
        content_rows=np.zeros(0, np.int64),
        content=np.zeros((0, 0), np.float32),
    )


def with_content(
    arrival: Arrival, rows: NDArray[np.int64], hashes: NDArray[np.uint8], vectors: NDArray[np.float32]
) -> Arrival:
    """The arrival with the vectors float32[m, D] and hashes uint8[m, 16] of its rows' own content, rows int64[m]."""
    content_hash = arrival.content_hash.copy()
    content_hash[rows] = hashes
    return replace(arrival, content_hash=content_hash, content_rows=rows, content=vectors)


def refused(arrival: Arrival, failed: Mapping[int, Fault]) -> Arrival:
    """The arrival without the events, by row, that were found to be at fault after all."""
    if not failed:
        return arrival
    valid = arrival.valid.copy()
    valid[list(failed)] = False
    return replace(arrival, valid=valid, faults={**arrival.faults, **failed})


def _action_codes(batch: EventBatch, actions: Mapping[str, int]) -> NDArray[np.int64]:
    if batch.action is None:
        return np.full(batch.size, UNKNOWN_ACTION, np.int64)
    encoded = batch.action.dictionary_encode(null_encoding="encode")
    codes = [actions.get(name, UNKNOWN_ACTION) for name in encoded.dictionary.to_pylist()]
    at: NDArray[np.int64] = encoded.indices.to_numpy()
    return np.array(codes, np.int64)[at]
