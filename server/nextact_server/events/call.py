"""Calls: what a caller asks beside applying its events, and what it is told."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextact_server.events.batch import EventBatch
from nextact_server.events.status import Fault


class Want(IntFlag):
    """The parts of a prediction."""

    NOTHING = 0
    EMBEDDING = 1
    ACTIONS = 2
    ITEMS = 4
    NEXT = 8
    ALL = 15


class Per(Enum):
    """After what a prediction is wanted: never, each user's last event, every recorded event."""

    NOTHING = 0
    USER = 1
    EVENT = 2


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items may be ranked; all conditions hold together. `exclude_seen` None: as the model card says."""

    exclude_seen: bool | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def names_items(self) -> bool:
        """Whether anything but exclude_seen is asked."""
        return bool(self.include or self.exclude or self.attributes)


NO_FILTER = Filter()


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What is asked of one call. `want` is a sum of Want.

    `as_of_us` is the moment that predictions are asked for. None: when the call arrived or, with `at_event`, the time
    of the user's last event before each prediction, which is what a replay of old events means by now.
    """

    top_k: int = 10
    want: int = int(Want.ALL)
    per: Per = Per.USER
    dry_run: bool = False
    model_version: str = ""
    filter: Filter = NO_FILTER
    as_of_us: int | None = None
    at_event: bool = False


class Call(NamedTuple):
    """One Predict or one stream message: rows start..stop of its batch, applied and kept together or not at all.

    With `history` > 0 the call is stateless: its first `history` rows are the past that the caller brought.
    """

    start: int
    stop: int
    options: CallOptions
    history: int = 0

    @property
    def is_private(self) -> bool:
        """Whether the call changes nothing."""
        return self.options.dry_run or self.history > 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """Calls that arrived together, checked and keyed: everything that can be known of them without any state.

    Columns have a row per event: `valid` bool[n]; `identified` bool[n], whether its user is known even if the event
    is not valid; `user_key`, `message_key`, `item_key` uint64[n, 2]; `has_item`, `derived` bool[n]; `action` int64[n],
    the model's code; `content_hash` uint8[n, 16], zeros where an event brings no text or image of its own. The vectors
    of those that do are `content` float32[m, D], of the rows `content_rows` int64[m]; `message_ids` string[n] are
    those that came or were derived.
    """

    batch: EventBatch
    calls: tuple[Call, ...]
    received_us: int
    valid: NDArray[np.bool_]
    identified: NDArray[np.bool_]
    faults: dict[int, Fault]
    message_ids: pa.Array
    derived: NDArray[np.bool_]
    user_key: NDArray[np.uint64]
    message_key: NDArray[np.uint64]
    item_key: NDArray[np.uint64]
    has_item: NDArray[np.bool_]
    action: NDArray[np.int64]
    content_hash: NDArray[np.uint8]
    content_rows: NDArray[np.int64]
    content: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NextColumns:
    """When users' next events come, P rows: `expected_gap_s` float32[P], and `leave_probability` float32[P], that of no
    event within `horizon_s`, which is the model's. See `sequence/survival.py`.
    """

    expected_gap_s: NDArray[np.float32]
    leave_probability: NDArray[np.float32]
    horizon_s: float

    def part(self, start: int, stop: int) -> "NextColumns":
        """The rows from `start` to `stop`."""
        return NextColumns(self.expected_gap_s[start:stop], self.leave_probability[start:stop], self.horizon_s)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions as columns, P rows ordered by call, then by the first appearance of the user (or by event).

    `call` int64[P] is the position of the call in its arrival and `row` int64[P] the event after which the prediction
    holds; `embedding` float32[P, D], `actions` float32[P, A] and `item_rows` int64[P, K] with `item_scores`
    float32[P, K] are there if any call wants them, rows of other calls being meaningless. So is `next`, if the model
    has such a head.
    """

    call: NDArray[np.int64]
    row: NDArray[np.int64]
    events_seen: NDArray[np.int64]
    embedding: NDArray[np.float32] | None = None
    actions: NDArray[np.float32] | None = None
    item_rows: NDArray[np.int64] | None = None
    item_scores: NDArray[np.float32] | None = None
    next: NextColumns | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an arrival's events, int8[n] `Status` each, and the predictions asked for.

    `original` int8[n] is the status of a DUPLICATE's first copy. Valid only once `durable` is done without error.
    """

    arrival: Arrival
    status: NDArray[np.int8]
    original: NDArray[np.int8]
    applied: NDArray[np.bool_]
    predictions: Predictions | None
    durable: "Future[None]"
    compute_us: int = 0
