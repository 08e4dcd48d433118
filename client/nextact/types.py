"""What the client takes and returns: frozen values, with numpy arrays where there are numbers.

The names are those of the contract (`nextact/v1/behavior.proto`), which says what each field means and its limits.
Values that hold arrays compare by identity, because numpy compares element by element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Time = datetime | int
"""A moment: a `datetime` with a time zone, or whole microseconds since 1970-01-01 UTC."""


class EventStatus(StrEnum):
    """What became of one event."""

    UNSPECIFIED = "UNSPECIFIED"
    """A status that this client is too old to know."""
    ACCEPTED = "ACCEPTED"
    DUPLICATE = "DUPLICATE"
    LATE = "LATE"
    INVALID = "INVALID"
    SUPPRESSED = "SUPPRESSED"
    OVERLOADED = "OVERLOADED"


class ItemStatus(StrEnum):
    """What became of one item of an upsert."""

    UNSPECIFIED = "UNSPECIFIED"
    CREATED = "CREATED"
    UPDATED = "UPDATED"
    INVALID = "INVALID"


class Durability(StrEnum):
    """How far an acknowledged event is kept."""

    UNSPECIFIED = "UNSPECIFIED"
    MEMORY = "MEMORY"
    INTERVAL = "INTERVAL"
    SYNC = "SYNC"


class Output(StrEnum):
    """A part of a prediction."""

    EMBEDDING = "EMBEDDING"
    ACTIONS = "ACTIONS"
    ITEMS = "ITEMS"
    NEXT = "NEXT"


class StreamPredictions(StrEnum):
    """Which predictions a stream asks for."""

    NONE = "NONE"
    LAST_PER_USER = "LAST_PER_USER"
    EVERY_EVENT = "EVERY_EVENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing a user did. `action` and one of `user_id` and `anonymous_id` are required.

    The client fills in `message_id` (a random one) and `event_time` (now) where they are absent, once, before the
    first attempt: whatever is sent again is known to the server as the same event.
    """

    user_id: str = ""
    action: str = ""
    item_id: str = ""
    event_time: Time | None = None
    message_id: str = ""
    anonymous_id: str = ""
    sent_at: Time | None = None
    text: str = ""
    image: bytes = b""
    session_id: str = ""
    properties: Mapping[str, Any] | None = None


EventLike = Event | Mapping[str, Any]
"""An event, or a mapping with the names of its fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFilter:
    """Which items may be ranked; all conditions hold together. `exclude_seen` None: as the model card says."""

    exclude_seen: bool | None = None
    include_item_ids: tuple[str, ...] = ()
    exclude_item_ids: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Content:
    """A text, an encoded image (JPEG, PNG, WebP) or both."""

    text: str = ""
    image: bytes = b""


ContentLike = str | bytes | Content
"""A text, the bytes of an image, or a `Content` with one or both."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue. Images come back from `get_item` only."""

    item_id: str
    text: str = ""
    image: bytes = b""
    attributes: Mapping[str, str] = field(default_factory=dict)
    available: bool = True


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item of an upsert; `reason` says why it is INVALID."""

    item_id: str
    status: ItemStatus
    reason: str


@dataclass(frozen=True, slots=True)
class Model:
    """The model that answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class EventResult:
    """What became of the event at `index` of its message."""

    index: int
    message_id: str
    status: EventStatus
    reason: str
    field: str
    original_status: EventStatus | None
    applied: bool
    id_derived: bool


@dataclass(frozen=True, slots=True, eq=False)
class ItemScores:
    """Items, best first, with their log scores: `ids[i]` has `scores[i]` (float32 [n]). Iterates as (id, score)."""

    ids: tuple[str, ...]
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.ids, self.scores.tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class Next:
    """When the user's next event is expected; `leave_probability` is that of none within `horizon_s` seconds."""

    expected_gap_s: float
    leave_probability: float
    horizon_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the model knows of one user: `embedding` is float32 [D]; `actions`, best first, maps to probabilities."""

    user_id: str
    anonymous_id: str
    embedding: FloatArray
    actions: Mapping[str, float]
    items: ItemScores
    next: Next | None
    events_seen: int
    event_index: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a call went on the server, in microseconds."""

    queue_us: int
    compute_us: int
    store_us: int


@dataclass(frozen=True, slots=True, eq=False)
class PredictAnswer:
    """One result per event, in order, and one prediction per user touched, in order of first appearance."""

    results: tuple[EventResult, ...]
    predictions: tuple[Prediction, ...]
    model: Model
    timing: Timing
    durability: Durability


@dataclass(frozen=True, slots=True, eq=False)
class PredictionColumns:
    """Predictions as columns of P rows: `embedding` [P, D], `actions` [P, A] in the order of `action_names`,
    `item_ids` (object) and `item_scores` [P, top_k] padded with '' and -inf. Arrays of numbers are read-only views of
    the bytes that came."""

    user_ids: tuple[str, ...]
    anonymous_ids: tuple[str, ...]
    event_index: npt.NDArray[np.int32]
    embedding: FloatArray
    actions: FloatArray
    action_names: tuple[str, ...]
    item_ids: npt.NDArray[np.object_]
    item_scores: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class StreamAck:
    """The acknowledgement of message `number`: its `events` events are durable but for the refused among `failures`.

    The message held the source's batch number `batch` (from 0) from its row `offset` on; a batch is one message unless
    it is over the limits of one. `failures` are those refused and those LATE, by their index in the message.
    """

    number: int
    batch: int
    offset: int
    events: int
    accepted: int
    duplicates: int
    failures: tuple[EventResult, ...]
    predictions: tuple[Prediction, ...]
    columns: PredictionColumns | None
    model: Model


@dataclass(frozen=True, slots=True, eq=False)
class EmbedAnswer:
    """`vectors` is float32 [n, D], one unit vector per content, NaN where `errors` has the content's index."""

    vectors: FloatArray
    errors: Mapping[int, str]
    model: Model


@dataclass(frozen=True, slots=True, eq=False)
class RankAnswer:
    """Ranked items, best first."""

    items: ItemScores
    model: Model
    events_seen: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One recorded event, as it was given to the model."""

    event: Event
    status: EventStatus
    applied: bool
    effective_time: datetime
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class User:
    """What is held about a user: one page of the history, newest first. No `next_page_token`: it was the last page."""

    user_id: str
    anonymous_id: str
    events_seen: int
    last_event_time: datetime | None
    suppressed: bool
    history: tuple[HistoryEntry, ...]
    next_page_token: str
