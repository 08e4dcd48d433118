"""The messages that the benchmark sends: distinct events over catalogue items, and their users."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from bench.processes import ROOT
from nextact.v1 import behavior_pb2 as pb

__all__ = ["EVENT_TIME", "arrow_message", "movie_titles", "predict_message"]

EVENT_TIME = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
"""When the first event happens, in seconds; event number n comes n seconds later."""

ACTIONS = ("like", "watch", "dislike", "tag")


def movie_titles(count: int) -> dict[str, str]:
    """Ids and titles of the first films of the shipped data."""
    with (ROOT / "examples" / "movielens" / "movies.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {row["movieId"]: row["title"] for row, _ in zip(rows, range(count), strict=False)}


def predict_message(number: int, user: str, item_id: str, outputs: Sequence[str]) -> bytes:
    """A Predict with one event; `number` makes it an event of its own."""
    event = pb.Event(message_id=f"bench-{number:012d}", user_id=user, action=ACTIONS[number % 3], item_id=item_id)
    event.event_time.seconds = EVENT_TIME + number
    request = pb.PredictRequest(events=[event])
    asked: Any = [pb.Output.Value(f"OUTPUT_{name}") for name in outputs]
    request.options.outputs.extend(asked)
    if "ITEMS" in outputs:
        request.options.top_k = 10
    return request.SerializeToString()


def arrow_message(number: int, users: Sequence[str], item_ids: Sequence[str], first_event: int) -> bytes:
    """A stream message with one event per entry of `users`; no predictions asked."""
    count = len(users)
    at = np.arange(first_event, first_event + count)
    columns = {
        "message_id": pa.array([f"bench-{event:012d}" for event in at.tolist()]),
        "user_id": pa.array(users),
        "action": pa.array([ACTIONS[event % 3] for event in at.tolist()]),
        "item_id": pa.array(item_ids),
        "event_time": pa.array((EVENT_TIME + at) * 1_000_000, pa.timestamp("us", "UTC")),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    request = pb.StreamEventsRequest(
        number=number, arrow_ipc=sink.getvalue().to_pybytes(), predictions=pb.STREAM_PREDICTIONS_NONE
    )
    return request.SerializeToString()
