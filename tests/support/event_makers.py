"""Events for tests: every user is a new one, and times lie an hour back, a second apart."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from google.protobuf.timestamp_pb2 import Timestamp
from support.tiny_model import ACTIONS, ITEMS

from nextact.v1 import behavior_pb2 as pb

SECOND = 1_000_000
START_US = (time.time_ns() // 1000 // SECOND - 3600) * SECOND
"""The time of the first event of a test, in microseconds."""
_numbers = itertools.count()


def new_name(kind: str = "user") -> str:
    """An id that nothing else in this process has."""
    return f"{kind}-{next(_numbers)}"


def stamp(microseconds: int) -> Timestamp:
    """A moment in microseconds as Timestamp."""
    seconds, rest = divmod(microseconds, SECOND)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def event(user: str = "", at: float = 0, **fields: Any) -> pb.Event:
    """A valid event `at` seconds after the start, with an id of its own unless `message_id` is given."""
    fields.setdefault("action", "view")
    fields.setdefault("event_time", stamp(START_US + int(at * SECOND)))
    fields.setdefault("message_id", new_name("message"))
    return pb.Event(user_id=user, **fields)


def story(user: str, count: int, start: int = 0) -> list[pb.Event]:
    """The events `start`.. of a story that is the same for every user: actions, items and gaps vary."""
    return [
        event(
            user,
            at=7 * number + number % 3,
            action=ACTIONS[number % len(ACTIONS)],
            item_id=ITEMS[(number * 7) % len(ITEMS)],
            message_id=f"{user}/{number}",
        )
        for number in range(start, start + count)
    ]


def predict(events: Sequence[pb.Event], **options: Any) -> pb.PredictRequest:
    """A Predict of these events."""
    return pb.PredictRequest(events=events, options=pb.PredictOptions(**options))


def record_batch(events: Sequence[pb.Event], unit: str = "us") -> pa.RecordBatch:
    """The events as Arrow columns; only columns that an event uses are there."""
    columns: dict[str, Any] = {}
    for name in ("message_id", "user_id", "anonymous_id", "action", "item_id", "session_id", "text"):
        values = [getattr(one, name) for one in events]
        if any(values) or name in ("user_id", "action"):
            columns[name] = pa.array(values, pa.string())
    if any(one.image for one in events):
        columns["image"] = pa.array([one.image for one in events], pa.binary())
    times = [one.event_time.ToMicroseconds() if one.HasField("event_time") else None for one in events]
    columns["event_time"] = pa.array(times, pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
    return pa.RecordBatch.from_pydict(columns)


def ipc(batch: pa.RecordBatch, *more: pa.RecordBatch, compression: str | None = None) -> bytes:
    """Record batches as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        for part in (batch, *more):
            writer.write_batch(part)
    return sink.getvalue().to_pybytes()


def rows_message(number: int, events: Sequence[pb.Event], predictions: str = "NONE", **options: Any) -> Any:
    """A stream message of rows."""
    return pb.StreamEventsRequest(
        number=number,
        rows=pb.EventRows(events=events),
        predictions=f"STREAM_PREDICTIONS_{predictions}",
        options=pb.PredictOptions(**options),
    )


def arrow_message(number: int, events: Sequence[pb.Event], predictions: str = "NONE", **options: Any) -> Any:
    """A stream message of Arrow."""
    return pb.StreamEventsRequest(
        number=number,
        arrow_ipc=ipc(record_batch(events)),
        predictions=f"STREAM_PREDICTIONS_{predictions}",
        options=pb.PredictOptions(**options),
    )
