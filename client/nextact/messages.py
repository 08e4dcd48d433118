"""From values to protobuf messages. Pure functions; errors name the field and what was seen."""

from __future__ import annotations

import operator
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, TypeVar

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from nextact.types import Content, ContentLike, Event, EventLike, Item, ItemFilter, Output, Time
from nextact.v1 import behavior_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIELDS = frozenset(f.name for f in fields(Event))
_IDS = ("message_id", "user_id", "anonymous_id", "action", "item_id", "text", "session_id")
_OUTPUTS: dict[Output, Any] = {output: pb.Output.Value(f"OUTPUT_{output}") for output in Output}

T = TypeVar("T")


class PredictOptions(TypedDict, total=False):
    """What is asked of a prediction; all are optional.

    top_k: how many next items, at most 1,000 (default: the server's, 10).
    outputs: which parts to compute (default: all).
    dry_run: answer as if the events were applied, and change nothing.
    model_version: pin a version of the model.
    filter: which items may be ranked.
    as_of: the moment that the prediction is asked for (default: the server's clock; on a stream the user's last event).
    """

    top_k: int
    outputs: Collection[Output | str]
    dry_run: bool
    model_version: str
    filter: ItemFilter | None
    as_of: Time | None


def new_message_id() -> str:
    """Returns a random message id."""
    return uuid.uuid4().hex


def now_us() -> int:
    """Returns the wall clock, in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def microseconds(value: Time, field: str) -> int:
    """Returns the moment as microseconds since 1970-01-01 UTC.

    Raises:
        ValueError: a datetime without a time zone.
        TypeError: neither a datetime nor a whole number.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{field}: {value.isoformat()} has no time zone; use datetime.now(UTC) or the like")
        return (value - _EPOCH) // _MICROSECOND
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{field}: {value!r} is neither a datetime with a time zone nor whole microseconds since 1970"
        ) from None


def timestamp(value: Time, field: str) -> Timestamp:
    """Returns the moment as a protobuf Timestamp; see `microseconds` for what is refused."""
    us = microseconds(value, field)
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)


def as_event(value: EventLike) -> Event:
    """Returns `value` as an Event.

    Raises:
        ValueError: a mapping with a key that no event has.
        TypeError: neither an event nor a mapping.
    """
    if isinstance(value, Event):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"an event is an Event or a mapping, not {type(value).__name__}")
    unknown = sorted(set(value) - _FIELDS)
    if unknown:
        raise ValueError(f"an event has no field {unknown[0]!r}; its fields are {', '.join(sorted(_FIELDS))}")
    return Event(**value)


def event_message(value: EventLike, message_id: str) -> pb.Event:
    """Builds the message of one event, with `message_id` and the present time where it has none."""
    event = as_event(value)
    for name in _IDS:
        if not isinstance(seen := getattr(event, name), str):
            raise TypeError(f"{name}: {seen!r} is not a string")
    message = pb.Event(
        message_id=event.message_id or message_id,
        user_id=event.user_id,
        anonymous_id=event.anonymous_id,
        action=event.action,
        item_id=event.item_id,
        event_time=timestamp(now_us() if event.event_time is None else event.event_time, "event_time"),
        text=event.text,
        image=event.image,
        session_id=event.session_id,
    )
    if event.sent_at is not None:
        message.sent_at.CopyFrom(timestamp(event.sent_at, "sent_at"))
    if event.properties is not None:
        message.properties.CopyFrom(_struct(event.properties))
    return message


def _struct(properties: Mapping[str, Any]) -> Struct:
    struct = Struct()
    for key, value in properties.items():
        try:
            struct.update({key: value})
        except (ValueError, TypeError) as error:
            raise ValueError(f"properties[{key!r}]: {value!r} is not JSON: {error}") from error
    return struct


def filter_message(value: ItemFilter) -> pb.ItemFilter:
    """Builds the message of a filter."""
    return pb.ItemFilter(
        exclude_seen=value.exclude_seen,
        include_item_ids=value.include_item_ids,
        exclude_item_ids=value.exclude_item_ids,
        attributes=value.attributes,
    )


def options_message(options: PredictOptions) -> pb.PredictOptions:
    """Builds the message of what is asked.

    Raises:
        ValueError: an output that does not exist.
    """
    message = pb.PredictOptions(
        top_k=options.get("top_k", 0),
        outputs=[_OUTPUTS[Output(output.upper())] for output in options.get("outputs", ())],
        dry_run=options.get("dry_run", False),
        model_version=options.get("model_version", ""),
    )
    if (item_filter := options.get("filter")) is not None:
        message.filter.CopyFrom(filter_message(item_filter))
    if (as_of := options.get("as_of")) is not None:
        message.as_of.CopyFrom(timestamp(as_of, "as_of"))
    return message


def content_message(value: ContentLike) -> pb.Content:
    """Builds the message of a text, of an image's bytes, or of both."""
    match value:
        case str():
            return pb.Content(text=value)
        case bytes():
            return pb.Content(image=value)
        case Content():
            return pb.Content(text=value.text, image=value.image)
    raise TypeError(f"a content is a text, the bytes of an image or a Content, not {type(value).__name__}")


def item_message(item: Item) -> pb.Item:
    """Builds the message of one item."""
    return pb.Item(
        item_id=item.item_id,
        text=item.text,
        image=item.image,
        attributes=item.attributes,
        available=item.available,
    )


def chunks(values: Iterable[T], size: Callable[[T], int], max_count: int, max_bytes: int) -> Iterator[list[T]]:
    """Groups values so that no group is over `max_count`, nor over `max_bytes` unless one value alone is."""
    group: list[T] = []
    total = 0
    for value in values:
        added = size(value)
        if group and (len(group) == max_count or total + added > max_bytes):
            yield group
            group, total = [], 0
        group.append(value)
        total += added
    if group:
        yield group
