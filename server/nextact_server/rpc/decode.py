"""From the contract's messages to columns and calls. What is wrong with a call is found here, and named."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.batch import MISSING_TIME, EventBatch
from nextact_server.events.call import NO_FILTER, Call, CallOptions, Filter, Per, Want
from nextact_server.rpc.errors import invalid
from nextact_server.rpc.limits import Limits
from nextact_server.rpc.wire import broken_field

M = TypeVar("M", bound=Message)

WANTS = {
    pb.OUTPUT_EMBEDDING: Want.EMBEDDING,
    pb.OUTPUT_ACTIONS: Want.ACTIONS,
    pb.OUTPUT_ITEMS: Want.ITEMS,
    pb.OUTPUT_NEXT: Want.NEXT,
}
ITEMS = int(Want.ITEMS)
STREAM_PER = {
    pb.STREAM_PREDICTIONS_UNSPECIFIED: Per.NOTHING,
    pb.STREAM_PREDICTIONS_NONE: Per.NOTHING,
    pb.STREAM_PREDICTIONS_LAST_PER_USER: Per.USER,
    pb.STREAM_PREDICTIONS_EVERY_EVENT: Per.EVENT,
}
KNOWN_OPTIONS_BYTES = 256
"""Bytes of the longest options that are remembered."""
NANOS = 1_000_000_000
LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that google.protobuf.Timestamp knows."""


def parse(kind: type[M], payload: bytes) -> M:
    """The message in the bytes. Raises INVALID_ARGUMENT, naming the field if it can be told."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        field, problem = broken_field(kind.DESCRIPTOR, payload)
        raise invalid(field or "request", f"{problem} ({len(payload)} bytes of {kind.DESCRIPTOR.name})") from error


def options_of(message: pb.PredictOptions, per: Per, limits: Limits) -> CallOptions:
    """What a call asks. Raises INVALID_ARGUMENT naming the field."""
    if not 0 <= message.top_k <= limits.top_k:
        raise invalid("options.top_k", f"{message.top_k} is not in 0..{limits.top_k} (max_top_k)")
    want = Want.NOTHING
    for output in message.outputs:
        if output not in WANTS:
            raise invalid("options.outputs", f"{output} is not an output")
        want |= WANTS[output]
    return CallOptions(
        top_k=message.top_k or limits.default_top_k,
        want=int(want or Want.ALL),
        per=per,
        dry_run=message.dry_run,
        model_version=message.model_version,
        filter=filter_of(message.filter, "options.filter", limits) if message.HasField("filter") else NO_FILTER,
        as_of_us=as_of(message.as_of, "options.as_of") if message.HasField("as_of") else None,
    )


def filter_of(message: pb.ItemFilter, field: str, limits: Limits) -> Filter:
    """Which items may be ranked. Raises INVALID_ARGUMENT naming the field."""
    for name, given in (("include_item_ids", message.include_item_ids), ("exclude_item_ids", message.exclude_item_ids)):
        if len(given) > limits.candidates:
            raise invalid(f"{field}.{name}", f"{len(given)} ids; at most {limits.candidates} (max_candidates)")
    return Filter(
        exclude_seen=message.exclude_seen if message.HasField("exclude_seen") else None,
        include=tuple(message.include_item_ids),
        exclude=tuple(message.exclude_item_ids),
        attributes=dict(message.attributes),
    )


def check_ranked(options: CallOptions, events: int, limits: Limits) -> None:
    """Raises INVALID_ARGUMENT where an answer could hold more ranked items than is allowed."""
    if options.want & ITEMS and options.per is not Per.NOTHING and options.top_k * events > limits.ranked_items:
        raise invalid(
            "options.top_k",
            f"{options.top_k} for each of {events} events; at most {limits.ranked_items} items are ranked in one "
            "answer (max_ranked_items)",
        )


class PredictReader:
    """Makes calls of Predict requests. What callers ask beside their events is mostly the same: it is read once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known = lru_cache(maxsize=1024)(self._options)

    def call(self, request: pb.PredictRequest, start: int) -> Call:
        """The call of rows `start` and on: history first, then events. Raises INVALID_ARGUMENT naming the field."""
        limits = self._limits
        events, history = len(request.events), len(request.history)
        for name, given in (("events", events), ("history", history)):
            if given > limits.predict_events:
                raise invalid(name, f"{given} events; at most {limits.predict_events} (max_predict_events)")
        if request.request_id and len(request.request_id.encode()) > limits.id_bytes:
            raise invalid("request_id", f"longer than {limits.id_bytes} bytes (max_id_bytes)")
        serialized = request.options.SerializeToString()
        options = self._known(serialized) if len(serialized) <= KNOWN_OPTIONS_BYTES else self._options(serialized)
        check_ranked(options, history + events, limits)
        return Call(start=start, stop=start + history + events, options=options, history=history)

    def _options(self, serialized: bytes) -> CallOptions:
        return options_of(pb.PredictOptions.FromString(serialized), Per.USER, self._limits)


def event_columns(events: Sequence[pb.Event]) -> EventBatch:
    """Events as columns; a column that no event carries stays None."""
    return EventBatch(
        size=len(events),
        event_time=_times([event.event_time for event in events], [event.HasField("event_time") for event in events]),
        sent_at=_optional_times(events),
        user_id=pa.array([event.user_id for event in events], pa.string()),
        message_id=_strings([event.message_id for event in events]),
        anonymous_id=_strings([event.anonymous_id for event in events]),
        action=pa.array([event.action for event in events], pa.string()),
        item_id=_strings([event.item_id for event in events]),
        session_id=_strings([event.session_id for event in events]),
        text=_strings([event.text for event in events]),
        image=_binaries([event.image for event in events]),
        properties=_properties(events),
    )


def has_content(events: Sequence[pb.Event]) -> bool:
    """Whether any of the events brings its own text or image."""
    for event in events:  # noqa: SIM110 (a generator would cost more than what it looks at)
        if event.text or event.image:
            return True
    return False


def microseconds(seconds: int, nanos: int) -> int:
    """A Timestamp in microseconds, rounded down; one out of its range lies before the earliest or far ahead."""
    if not 0 <= nanos < NANOS or seconds > LAST_SECOND or seconds < -LAST_SECOND:
        return np.iinfo(np.int64).max if seconds >= 0 else np.iinfo(np.int64).min + 1
    return seconds * 1_000_000 + nanos // 1000


def as_of(message: Timestamp, field: str) -> int:
    """The moment a prediction is asked for, in microseconds. Raises INVALID_ARGUMENT naming the field."""
    if not 0 <= message.nanos < NANOS or abs(message.seconds) > LAST_SECOND:
        raise invalid(field, f"{message.seconds} s and {message.nanos} ns are not a time")
    return microseconds(message.seconds, message.nanos)


def _times(stamps: Sequence[Timestamp], present: Sequence[bool]) -> NDArray[np.int64]:
    return np.array(
        [
            microseconds(stamp.seconds, stamp.nanos) if there else MISSING_TIME
            for stamp, there in zip(stamps, present, strict=True)
        ],
        np.int64,
    )


def _optional_times(events: Sequence[pb.Event]) -> NDArray[np.int64] | None:
    present = [event.HasField("sent_at") for event in events]
    return _times([event.sent_at for event in events], present) if any(present) else None


def _strings(values: list[str]) -> pa.Array | None:
    return pa.array(values, pa.string()) if any(values) else None


def _binaries(values: list[bytes]) -> pa.Array | None:
    return pa.array(values, pa.binary()) if any(values) else None


def _properties(events: Sequence[pb.Event]) -> pa.Array | None:
    if not any(event.HasField("properties") for event in events):
        return None
    return _binaries([_serialized(event.properties) if event.HasField("properties") else b"" for event in events])


def _serialized(properties: Struct) -> bytes:
    # Deterministic, since a derived message id hashes these bytes and map order is otherwise free.
    return properties.SerializeToString(deterministic=True)
