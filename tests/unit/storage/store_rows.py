"""Events for store tests, spelled as one value per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from nextact_server.events.hashing import combine, hash_strings
from nextact_server.storage.seam import ACCEPTED, HISTORY_SCHEMA, NO_GAP, NO_TIME, CommitGroup, Erasure, EventRows

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Row:
    user: int
    message: str
    item: str | None = None
    at_us: int = 0
    status: int = ACCEPTED
    applied: bool = True
    content: bytes = bytes(16)
    received_us: int = 0
    text: str | None = None


@cache
def user_key(user: int) -> np.ndarray:
    return hash_strings(pa.array([f"user-{user}"]))


def message_keys(pairs: Sequence[tuple[int, str]]) -> np.ndarray:
    if not pairs:
        return np.zeros((0, 2), np.uint64)
    keys = np.concatenate([user_key(user) for user, _ in pairs])  # [n, 2]
    return combine(keys, hash_strings(pa.array([message for _, message in pairs])))


@cache
def item_key(item: str | None) -> tuple[int, int]:
    return (0, 0) if item is None else tuple(hash_strings(pa.array([item]))[0].tolist())


def event_rows(rows: Sequence[Row]) -> EventRows:
    n = len(rows)
    columns = {
        "message_id": [row.message for row in rows],
        "user_id": [f"user-{row.user}" for row in rows],
        "action": ["view"] * n,
        "item_id": [row.item for row in rows],
        "text": [row.text for row in rows],
    }
    arrays = [pa.array(columns.get(field.name, [None] * n), field.type) for field in HISTORY_SCHEMA]
    return EventRows(
        user=np.array([row.user for row in rows], np.int64),
        user_key=np.concatenate([user_key(row.user) for row in rows]) if n else np.zeros((0, 2), np.uint64),
        message_key=message_keys([(row.user, row.message) for row in rows]),
        status=np.array([row.status for row in rows], np.int8),
        applied=np.array([row.applied for row in rows], np.bool_),
        event_time_us=np.array([row.at_us for row in rows], np.int64),
        effective_time_us=np.array([row.at_us for row in rows], np.int64),
        gap_us=np.full(n, NO_GAP),
        sent_at_us=np.full(n, NO_TIME),
        received_us=np.array([row.received_us for row in rows], np.int64),
        item_key=np.array([item_key(row.item) for row in rows], np.uint64).reshape(n, 2),
        has_item=np.array([row.item is not None for row in rows], np.bool_),
        action_code=np.array([len(row.message) for row in rows], np.int32),
        content_hash=np.array([list(row.content) for row in rows], np.uint8).reshape(n, 16),
        columns=pa.RecordBatch.from_arrays(arrays, schema=HISTORY_SCHEMA),
    )


def group(sequence: int, *rows: Row) -> CommitGroup:
    return CommitGroup(sequence, event_rows(rows))


def erasure(user: int, suppress: bool = False) -> Erasure:
    low, high = user_key(user)[0].tolist()
    return Erasure(user, (low, high), suppress)


def ordinals(*users: int) -> np.ndarray:
    return np.array(users, np.int64)
