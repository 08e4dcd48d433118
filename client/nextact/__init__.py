"""Client of nextact, the gRPC inference server for real-time user behaviour.

with Client("127.0.0.1:8001") as client:
    answer = client.predict([Event(user_id="ada", action="view", item_id="1")], top_k=5)
"""

from nextact.async_client import AsyncClient
from nextact.channel import Deadlines, StreamRetry
from nextact.errors import FieldViolation, NextactError
from nextact.sync_client import Client
from nextact.types import (
    Content,
    Durability,
    EmbedAnswer,
    Event,
    EventResult,
    EventStatus,
    HistoryEntry,
    Item,
    ItemFilter,
    ItemResult,
    ItemScores,
    ItemStatus,
    Model,
    Next,
    Output,
    PredictAnswer,
    Prediction,
    PredictionColumns,
    RankAnswer,
    StreamAck,
    StreamPredictions,
    Timing,
    User,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Content",
    "Deadlines",
    "Durability",
    "EmbedAnswer",
    "Event",
    "EventResult",
    "EventStatus",
    "FieldViolation",
    "HistoryEntry",
    "Item",
    "ItemFilter",
    "ItemResult",
    "ItemScores",
    "ItemStatus",
    "Model",
    "Next",
    "NextactError",
    "Output",
    "PredictAnswer",
    "Prediction",
    "PredictionColumns",
    "RankAnswer",
    "StreamAck",
    "StreamPredictions",
    "StreamRetry",
    "Timing",
    "User",
]
