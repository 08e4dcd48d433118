"""From columns to an Arrival: everything about events that needs no state, for all of them at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Arrival, Call
from nextact_server.events.hashing import combine, hash_columns
from nextact_server.events.identity import user_keys, user_seed
from nextact_server.events.message_id import with_message_ids
from nextact_server.events.status import Fault
from nextact_server.events.validation import EventLimits, check, column_lengths

UNKNOWN_ACTION = 1


def arrive(
    batch: EventBatch, calls: Sequence[Call], limits: EventLimits, actions: Mapping[str, int], now_us: int
) -> Arrival:
    """Checks and keys the events of calls that arrived together. `actions` maps names to the model's codes."""
    lengths = column_lengths(batch)
    valid, faults = check(batch, limits, now_us, lengths)
    boundaries = np.array([0, *(call.stop for call in calls)], np.int64)
    message_ids, derived = with_message_ids(batch, boundaries)
    user_key, message_hash, item_key = _keys(batch, message_ids, lengths)
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
        message_key=combine(user_key, message_hash),
        item_key=item_key,
        has_item=np.zeros(batch.size, np.bool_) if batch.item_id is None else lengths["item_id"] > 0,
        action=_action_codes(batch, actions),
        content_hash=np.zeros((batch.size, 16), np.uint8),
        content_rows=np.zeros(0, np.int64),
        content=np.zeros((0, 0), np.float32),
    )


def _keys(
    batch: EventBatch, message_ids: pa.Array, lengths: Mapping[str, NDArray[np.int64]]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """User keys, hashes of message ids and item keys, uint64[n, 2] each."""
    columns, seeds = [message_ids], [0]
    if batch.item_id is not None:
        columns, seeds = [*columns, batch.item_id], [*seeds, 0]
    all_known = batch.user_id is not None and bool(lengths["user_id"].all())
    if all_known:
        columns, seeds = [*columns, batch.user_id], [*seeds, user_seed()]
    keys = hash_columns(columns, seeds)
    user_key = keys[-1] if all_known else user_keys(batch.user_id, batch.anonymous_id)[0]
    return user_key, keys[0], keys[1] if batch.item_id is not None else np.zeros((batch.size, 2), np.uint64)


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
