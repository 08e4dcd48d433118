"""From protobuf messages to values. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from nextact.types import (
    Durability,
    EmbedAnswer,
    Event,
    EventResult,
    EventStatus,
    FloatArray,
    HistoryEntry,
    Item,
    ItemResult,
    ItemScores,
    ItemStatus,
    Model,
    Next,
    PredictAnswer,
    Prediction,
    PredictionColumns,
    RankAnswer,
    Timing,
    User,
)
from nextact.v1 import behavior_pb2 as pb

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DTYPES = {"FP32": "<f4", "INT64": "<i8"}

E = TypeVar("E", bound=StrEnum)


def _names(kind: type[E], proto: Any, prefix: str) -> dict[int, E]:
    return {number: kind(name.removeprefix(prefix)) for name, number in proto.items()}


_EVENT_STATUS = _names(EventStatus, pb.EventStatus, "EVENT_STATUS_")
_ITEM_STATUS = _names(ItemStatus, pb.ItemStatus, "ITEM_STATUS_")
_DURABILITY = _names(Durability, pb.Durability, "DURABILITY_")


def moment(message: Timestamp) -> datetime:
    """Returns a Timestamp as a datetime in UTC, to the microsecond."""
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def floats(values: Collection[float]) -> FloatArray:
    """Returns a repeated float field as a float32 array."""
    return np.fromiter(values, np.float32, count=len(values))


def tensor(message: pb.Tensor) -> npt.NDArray[Any]:
    """Returns a tensor as a read-only view of its bytes.

    Raises:
        ValueError: a dtype other than FP32 and INT64, or bytes that do not fill the shape.
    """
    if message.dtype not in _DTYPES:
        raise ValueError(f"tensor of dtype {message.dtype!r}; known are {', '.join(_DTYPES)}")
    shape = tuple(message.shape)
    flat = np.frombuffer(message.data, _DTYPES[message.dtype])
    if flat.size != math.prod(shape):
        raise ValueError(f"tensor of shape {shape} came with {flat.size} elements")
    return flat.reshape(shape)


def model(message: pb.Model) -> Model:
    """Returns the model that answered."""
    return Model(message.name, message.version)


def event_result(message: pb.EventResult) -> EventResult:
    """Returns what became of one event."""
    return EventResult(
        index=message.index,
        message_id=message.message_id,
        status=_EVENT_STATUS.get(message.status, EventStatus.UNSPECIFIED),
        reason=message.reason,
        field=message.field,
        original_status=_EVENT_STATUS.get(message.original_status) if message.original_status else None,
        applied=message.applied,
        id_derived=message.id_derived,
    )


def item_scores(messages: Collection[pb.ItemScore]) -> ItemScores:
    """Returns scored items, in the order in which they came."""
    scores = np.fromiter((m.score for m in messages), np.float32, count=len(messages))
    return ItemScores(tuple(m.item_id for m in messages), scores)


def prediction(message: pb.Prediction) -> Prediction:
    """Returns what the model knows of one user."""
    expected = message.next
    return Prediction(
        user_id=message.user_id,
        anonymous_id=message.anonymous_id,
        embedding=floats(message.embedding),
        actions={action.action: action.score for action in message.actions},
        items=item_scores(message.items),
        next=Next(expected.expected_gap_s, expected.leave_probability, expected.horizon_s)
        if message.HasField("next")
        else None,
        events_seen=message.events_seen,
        event_index=message.event_index,
    )


def predict_answer(message: pb.PredictResponse) -> PredictAnswer:
    """Returns the answer to Predict."""
    timing = message.timing
    return PredictAnswer(
        results=tuple(event_result(m) for m in message.results),
        predictions=tuple(prediction(m) for m in message.predictions),
        model=model(message.model),
        timing=Timing(timing.queue_us, timing.compute_us, timing.store_us),
        durability=_DURABILITY.get(message.durability, Durability.UNSPECIFIED),
    )


def prediction_columns(message: pb.PredictionColumns) -> PredictionColumns:
    """Returns the predictions of an Arrow message; parts that were not asked for have width 0."""
    rows = len(message.event_index)
    item_ids = np.array(message.item_ids, dtype=object)

    def matrix(name: str) -> FloatArray:
        return tensor(getattr(message, name)) if message.HasField(name) else np.empty((rows, 0), np.float32)

    return PredictionColumns(
        user_ids=tuple(message.user_ids),
        anonymous_ids=tuple(message.anonymous_ids),
        event_index=np.fromiter(message.event_index, np.int32, count=rows),
        embedding=matrix("embedding"),
        actions=matrix("actions"),
        action_names=tuple(message.action_names),
        item_ids=item_ids.reshape(rows, len(item_ids) // rows if rows else 0),
        item_scores=matrix("item_scores"),
    )


def rank_answer(message: pb.RankResponse) -> RankAnswer:
    """Returns the answer to Rank."""
    return RankAnswer(item_scores(message.items), model(message.model), message.events_seen)


def embed_answer(messages: Iterable[pb.EmbedResponse]) -> EmbedAnswer:
    """Joins the answers to the parts of one Embed."""
    parts = list(messages)
    embeddings = [embedding for part in parts for embedding in part.embeddings]
    width = max((len(e.values) for e in embeddings), default=0)
    vectors = np.full((len(embeddings), width), np.nan, np.float32)
    for row, embedding in enumerate(embeddings):
        if not embedding.error:
            vectors[row] = floats(embedding.values)
    errors = {row: embedding.error for row, embedding in enumerate(embeddings) if embedding.error}
    return EmbedAnswer(vectors, errors, model(parts[-1].model) if parts else Model("", ""))


def item(message: pb.Item) -> Item:
    """Returns one item of the catalogue."""
    available = message.available if message.HasField("available") else True
    return Item(message.item_id, message.text, message.image, dict(message.attributes), available)


def item_results(message: pb.UpsertItemsResponse) -> list[ItemResult]:
    """Returns what became of the items of one request."""
    return [
        ItemResult(m.item_id, _ITEM_STATUS.get(m.status, ItemStatus.UNSPECIFIED), m.reason) for m in message.results
    ]


def event(message: pb.Event) -> Event:
    """Returns a recorded event."""
    return Event(
        message_id=message.message_id,
        user_id=message.user_id,
        anonymous_id=message.anonymous_id,
        action=message.action,
        item_id=message.item_id,
        event_time=moment(message.event_time) if message.HasField("event_time") else None,
        sent_at=moment(message.sent_at) if message.HasField("sent_at") else None,
        text=message.text,
        image=message.image,
        session_id=message.session_id,
        properties=MessageToDict(message.properties) if message.HasField("properties") else None,
    )


def user(message: pb.User) -> User:
    """Returns one page of what is held about a user."""
    return User(
        user_id=message.user_id,
        anonymous_id=message.anonymous_id,
        events_seen=message.events_seen,
        last_event_time=moment(message.last_event_time) if message.HasField("last_event_time") else None,
        suppressed=message.suppressed,
        history=tuple(
            HistoryEntry(
                event=event(entry.event),
                status=_EVENT_STATUS.get(entry.status, EventStatus.UNSPECIFIED),
                applied=entry.applied,
                effective_time=moment(entry.effective_time),
                content_hash=entry.content_hash,
            )
            for entry in message.history
        ),
        next_page_token=message.next_page_token,
    )
