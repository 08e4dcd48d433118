"""Which events of a batch may come in, and why the others may not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.batch import MISSING_TIME, EventBatch
from nextact_server.events.hashing import byte_lengths
from nextact_server.events.status import Fault

MICROSECONDS = 1_000_000
EARLIEST_TIME = -62_135_596_800 * MICROSECONDS
"""0001-01-01, the first moment that google.protobuf.Timestamp knows."""


@dataclass(frozen=True, slots=True)
class EventLimits:
    """What one event may carry, in bytes, and how far ahead of the server's clock it may be, in seconds."""

    id_bytes: int = 256
    action_bytes: int = 128
    text_bytes: int = 64 * 1024
    image_bytes: int = 8 * 1024 * 1024
    properties_bytes: int = 16 * 1024
    future_seconds: float = 300.0


def column_lengths(batch: EventBatch) -> dict[str, NDArray[np.int64]]:
    """Bytes of each value, int64[n], of the columns of strings and bytes that are there."""
    return {name: byte_lengths(column) for name, column in batch.columns() if not isinstance(column, np.ndarray)}


def check(
    batch: EventBatch, limits: EventLimits, now_us: int, lengths: Mapping[str, NDArray[np.int64]] | None = None
) -> tuple[NDArray[np.bool_], dict[int, Fault]]:
    """Which events are valid, bool[n], and the first fault of each that is not, by row.

    `lengths` are the batch's `column_lengths`, where they are known already.
    """
    checker = _Checker(batch.size)
    if lengths is None:
        lengths = column_lengths(batch)
    nothing = np.zeros(batch.size, np.int64)
    identified = lengths.get("user_id", nothing) + lengths.get("anonymous_id", nothing) > 0
    checker.require(identified, "user_id", lambda _: "user_id and anonymous_id are both empty; one is required")
    for name in ("user_id", "anonymous_id", "message_id", "item_id", "session_id"):
        checker.longest(name, lengths.get(name), limits.id_bytes, "max_id_bytes")
    action = lengths.get("action", nothing)
    checker.require(action > 0, "action", lambda _: "action is empty; it is required")
    checker.longest("action", action, limits.action_bytes, "max_action_bytes")
    checker.longest("text", lengths.get("text"), limits.text_bytes, "max_text_bytes")
    checker.longest("image", lengths.get("image"), limits.image_bytes, "max_image_bytes")
    checker.longest("properties", lengths.get("properties"), limits.properties_bytes, "max_properties_bytes")
    times = batch.event_time
    checker.require(times != MISSING_TIME, "event_time", lambda _: "event_time is missing; it is required")
    checker.require(
        (times >= EARLIEST_TIME) | (times == MISSING_TIME),
        "event_time",
        lambda row: f"event_time is {times[row]} us, before 0001-01-01",
    )
    latest = now_us + int(limits.future_seconds * MICROSECONDS)
    checker.require(
        times <= latest,
        "event_time",
        lambda row: (
            f"event_time is {(times[row] - now_us) / MICROSECONDS:.1f} s ahead of the server's clock; "
            f"at most {limits.future_seconds:g} s are allowed (max_future_seconds)"
        ),
    )
    return checker.valid, checker.faults


class _Checker:
    """Collects the first fault of each row; a row's text is made only if it has one."""

    def __init__(self, size: int) -> None:
        self.valid = np.ones(size, np.bool_)
        self.faults: dict[int, Fault] = {}

    def require(self, holds: NDArray[np.bool_], field: str, reason: Callable[[int], str]) -> None:
        if holds.all():
            return
        for row in np.flatnonzero(self.valid & ~holds).tolist():
            self.faults[row] = Fault(field, reason(row))
        self.valid &= holds

    def longest(self, field: str, lengths: NDArray[np.int64] | None, limit: int, setting: str) -> None:
        if lengths is not None:
            self.require(
                lengths <= limit,
                field,
                lambda row: f"{field} has {lengths[row]} bytes; at most {limit} are allowed ({setting})",
            )
