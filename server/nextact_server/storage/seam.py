"""The storage seam: what the server asks of a store, and the columns that cross it.

A store keeps, per user, the history of events as the model was given them, checkpoints of the model's state, and the
message ids already seen; beside them the catalogue, the vectors of content that either refers to, and the users who
asked to be forgotten. State is a function of history: stored state plus `replay` is the user's state.

Users are named by ordinals, the dense numbers that `events.identity.UserDirectory` gives out for the life of one
process. A store that outlives the process keeps the 128-bit user keys, which come with every row, and is built with the
directory to translate; ordinals are never persisted.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ACCEPTED = 1
"""Status of a row that was recorded and applied; the number is that of the public contract."""
LATE = 3
"""Status of a row that was recorded behind the allowed lateness; `applied` says whether the model saw it."""
APPLIED_BIT = 0x10
"""Set in what `Store.message_status` returns when the first copy of the event was applied to the state."""
STATUS_MASK = 0x0F
"""Selects the status (`ACCEPTED` or `LATE`) from what `Store.message_status` returns."""
NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for a time that is not there: no `sent_at`, or a user without events."""
NO_GAP = -1
"""Stands for the gap of a user's first event."""
HASH_BYTES = 16
"""Length of a content hash; the all-zero hash says that a row came without content."""

_STRINGS = ("message_id", "user_id", "anonymous_id", "action", "item_id", "session_id", "text")
HISTORY_SCHEMA = pa.schema([*((name, pa.string()) for name in _STRINGS)]).append(pa.field("properties", pa.binary()))
"""The raw columns of an event as it was sent, all nullable. `properties` is kept as the bytes that came."""


class StoreError(Exception):
    """A store could not do what it was asked."""


class InvalidGroupError(StoreError):
    """A group contradicts itself or what is stored; nothing of it was applied."""


class StoreFailedError(StoreError):
    """An earlier commit failed, and nothing is written until `Store.reopen` succeeds."""


class StoreClosedError(StoreError):
    """The store was closed."""


@dataclass(frozen=True, slots=True, eq=False)
class EventRows:
    """n recorded events in the order of arrival; each user's in the order of its tickets.

    Times are microseconds since 1970-01-01 UTC.
    """

    user: NDArray[np.int64]
    """[n] ordinals."""
    user_key: NDArray[np.uint64]
    """[n, 2] keys of the users."""
    message_key: NDArray[np.uint64]
    """[n, 2] hash of user key and message id: the key of idempotency."""
    status: NDArray[np.int8]
    """[n] `ACCEPTED` or `LATE`."""
    applied: NDArray[np.bool_]
    """[n] whether the row advanced the user's state."""
    event_time_us: NDArray[np.int64]
    """[n] when it happened, as sent."""
    effective_time_us: NDArray[np.int64]
    """[n] the time that the model was given."""
    gap_us: NDArray[np.int64]
    """[n] time since the user's event before, as the model was given it; `NO_GAP` for the first."""
    sent_at_us: NDArray[np.int64]
    """[n] the client's clock when it sent the event, or `NO_TIME`."""
    received_us: NDArray[np.int64]
    """[n] the server's clock when the event arrived; the message-id window is measured by it."""
    item_key: NDArray[np.uint64]
    """[n, 2] hash of the item id; zeros where there is none."""
    has_item: NDArray[np.bool_]
    """[n] whether the event names an item."""
    action_code: NDArray[np.int32]
    """[n] the action as the model was given it."""
    content_hash: NDArray[np.uint8]
    """[n, 16] hash of the event's own text and image; zeros where there is none."""
    columns: pa.RecordBatch
    """[n] the raw columns, of `HISTORY_SCHEMA`."""

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, slots=True, eq=False)
class ItemRecord:
    """One item of the catalogue."""

    item_id: str
    text: str = ""
    image: bytes | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    available: bool = True
    content_hash: bytes | None = None
    """16 bytes; None for an item without text and image."""
    vector: NDArray[np.float32] | None = None
    """The item's content in the content space, kept with the item."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """A user to forget."""

    user: int
    """The user's ordinal."""
    user_key: tuple[int, int]
    """The user's key, as two unsigned 64-bit numbers."""
    suppress: bool
    """Whether the key goes to the suppression list, which outlives the erasure and holds nothing but the key."""


@dataclass(frozen=True, slots=True, eq=False)
class CommitGroup:
    """What becomes durable together or not at all.

    A group must not record events of a user it erases, nor delete an item it upserts: their order could not be told.
    """

    sequence: int
    """Rises from group to group."""
    events: EventRows | None = None
    items: tuple[ItemRecord, ...] = ()
    """Items to register or replace; of two with one id the last stays."""
    deleted_items: tuple[str, ...] = ()
    erased: tuple[Erasure, ...] = ()
    content: Mapping[bytes, NDArray[np.float32]] = field(default_factory=dict)
    """Vectors by content hash, to be kept for as long as a history row or an item refers to the hash."""


@dataclass(frozen=True, slots=True, eq=False)
class UserColumns:
    """What is known of n users."""

    events_seen: NDArray[np.int64]
    """[n] events applied, ever."""
    last_time_us: NDArray[np.int64]
    """[n] the newest effective time, or `NO_TIME`."""
    has_history: NDArray[np.bool_]
    """[n] whether any event is recorded."""


@dataclass(frozen=True, slots=True, eq=False)
class StateColumns:
    """Stored states of n users; rows without one are zero."""

    has: NDArray[np.bool_]
    """[n]"""
    events_seen: NDArray[np.int64]
    """[n] how many events the stored state has seen; `replay` after it gives the rest."""
    last_time_us: NDArray[np.int64]
    """[n] the effective time of the last of them, or `NO_TIME`."""
    states: Mapping[str, NDArray[np.float32]]
    """Name -> [n, ...], the names and shapes that the model declared; empty when no state was ever saved."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplayRows:
    """m applied events of one user, oldest first, as the model saw them. Columns as in `EventRows`."""

    effective_time_us: NDArray[np.int64]
    gap_us: NDArray[np.int64]
    item_key: NDArray[np.uint64]
    has_item: NDArray[np.bool_]
    action_code: NDArray[np.int32]
    content_hash: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.gap_us)


@dataclass(frozen=True, slots=True, eq=False)
class HistoryPage:
    """Events of one user, newest first. Columns as in `EventRows`."""

    status: NDArray[np.int8]
    applied: NDArray[np.bool_]
    event_time_us: NDArray[np.int64]
    effective_time_us: NDArray[np.int64]
    sent_at_us: NDArray[np.int64]
    received_us: NDArray[np.int64]
    content_hash: NDArray[np.uint8]
    columns: pa.RecordBatch
    next_before: int | None
    """Cursor for the next page; None: this was the last."""

    @classmethod
    def of(cls, rows: NDArray[Any], columns: pa.RecordBatch, next_before: int | None) -> "HistoryPage":
        """A page of copies of structured rows, whose fields carry the names of the columns."""
        copied = {
            name: rows[name].copy()
            for name in (
                "status", "applied", "event_time_us", "effective_time_us", "sent_at_us", "received_us", "content_hash",
            )
        }  # fmt: skip
        return cls(**copied, columns=columns, next_before=next_before)

    def __len__(self) -> int:
        return len(self.status)


class Writes(Protocol):
    """What changes a store."""

    def commit(self, group: CommitGroup) -> Future[None]:
        """Writes a group atomically; the future is done when the group is as durable as `durability` says.

        Groups become durable in the order of the calls, each on top of those before. When one fails, it and every
        later one fail (`StoreFailedError` for the later ones) until `reopen`. Errors come by the future only.
        """

    def save_states(
        self,
        users: NDArray[np.int64],
        events_seen: NDArray[np.int64],
        last_time_us: NDArray[np.int64],
        states: Mapping[str, NDArray[np.float32]],
        *,
        model: str = "",
    ) -> NDArray[np.bool_]:
        """Keeps checkpoints of the states of n users under a model's "name/version", on eviction or by a timer.

        Returns [n] whether each was kept. A state that has seen more events than are durable for its user (its group is
        still on the way, or the user was erased meanwhile) is not kept: the caller must not evict it yet.
        """

    def reopen(self) -> None:
        """Goes back to the last durable group after a failed commit, and accepts commits again."""

    def close(self) -> None:
        """Refuses what comes from now on with `StoreClosedError`; commits taken before are completed."""


class Reads(Protocol):
    """What is asked of a store. All of it sees whole groups only, and may be called from any thread."""

    def message_status(self, message_keys: NDArray[np.uint64]) -> NDArray[np.int8]:
        """Outcomes [n] of messages by key [n, 2]: 0 for one not remembered, else status, plus `APPLIED_BIT`."""

    def suppressed(self, user_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether the users with these keys [n, 2] asked not to be recorded again."""

    def users(self, users: NDArray[np.int64]) -> UserColumns:
        """What is known of n users, those never seen included."""

    def load_states(self, users: NDArray[np.int64], *, model: str = "") -> StateColumns:
        """The last checkpoints of n users under a model's "name/version"."""

    def replay(self, user: int, after_events_seen: int) -> ReplayRows:
        """The applied events of a user beyond the first `after_events_seen`, oldest first. Costs O(rows returned)."""

    def history(self, user: int, before: int | None, limit: int) -> HistoryPage:
        """Up to `limit` events of a user, newest first, from the cursor of the page before (None: from the newest)."""

    def seen_items(self, user: int, after: int = -1) -> tuple[NDArray[np.uint64], int]:
        """Keys [m, 2] of the items of the user's events after a position (repeats included), and the position reached.

        Start from -1. Positions rise, so a cache that comes back with the last one pays for new events only.
        """

    def content_vector(self, content_hash: bytes) -> NDArray[np.float32] | None:
        """The vector kept under a hash, if any. Do not write into it."""

    def content_vectors(self, hashes: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """For hashes [n, 16]: whether a vector is kept [n], and the vectors [n, D] (zero where not)."""

    def item(self, item_id: str) -> ItemRecord | None:
        """One item of the catalogue."""

    def items(self, after_item_id: str, limit: int) -> tuple[ItemRecord, ...]:
        """Up to `limit` items with ids greater than `after_item_id` ('' for the first), ordered by id."""

    def all_items(self) -> Iterator[ItemRecord]:
        """The whole catalogue as it is now, in no promised order."""


class Store(Writes, Reads, Protocol):
    """Everything that the server asks of a store."""

    @property
    def durability(self) -> str:
        """How far an acknowledged group is kept: 'memory', 'interval' or 'sync'."""
