"""Rooms around a pipeline that a test moves by hand: an encoder and a batcher whose futures it completes itself."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Arrival, Call, CallOptions
from nextact_server.events.validation import EventLimits
from nextact_server.features.content import Content, ContentError, Encoding
from nextact_server.inference.batcher import QueueFull
from nextact_server.pipeline import Pipeline, PipelineLimits, Submission
from nextact_server.sequence.stage import EventWork, RankWork, Work, cost_of

NOW = 1_700_000_000_000_000
DIM = 3
MODEL = ("small", "1")


@dataclass(frozen=True, slots=True)
class Sent:
    user: str
    message: str = "m"
    text: str = ""
    image: bytes = b""
    action: str = "view"


def batch_of(events: Sequence[Sent]) -> EventBatch:
    images = [event.image for event in events]
    texts = [event.text for event in events]
    return EventBatch(
        size=len(events),
        event_time=np.full(len(events), NOW),
        user_id=pa.array([event.user for event in events], pa.string()),
        message_id=pa.array([event.message for event in events], pa.string()),
        action=pa.array([event.action for event in events], pa.string()),
        text=pa.array(texts, pa.string()) if any(texts) else None,
        image=pa.array(images, pa.binary()) if any(images) else None,
    )


def vector(content: str) -> np.ndarray:
    return np.full(DIM, len(content), np.float32)


class HandEncoder:
    """Encodes what the test lets it; a text that starts with "known" is in the cache."""

    def __init__(self) -> None:
        self.asked: list[Content] = []
        self.waiting: dict[str, list[Future[np.ndarray]]] = {}
        self.full = False

    def encode_hashed(self, contents: Sequence[Content]) -> list[Encoding]:
        if self.full:
            raise QueueFull("text_encoder", 1, 1, len(contents), 0.1)
        self.asked += contents
        made = []
        for content in contents:
            name = content.text or (content.image or b"").decode()
            future: Future[np.ndarray] = Future()
            if name.startswith("known"):
                future.set_result(vector(name))
            else:
                self.waiting.setdefault(name, []).append(future)
            made.append(Encoding(name.encode().ljust(16, b"\0")[:16], future))
        return made

    def finish(self, name: str, error: BaseException | None = None) -> None:
        for future in self.waiting.pop(name):
            if error is None:
                future.set_result(vector(name))
            else:
                future.set_exception(error)

    def refuse(self, name: str, field: str = "text") -> None:
        self.finish(name, ContentError(field, "cannot be read"))


class HandBatcher:
    """A queue that the test empties; costs are counted as the real one does."""

    def __init__(self) -> None:
        self.queue: list[tuple[Work, Future[Any]]] = []
        self.closed: BaseException | None = None
        self.room_asked: list[int] = []

    @property
    def queued_cost(self) -> int:
        return sum(max(1, cost_of(work)) for work, _ in self.queue)

    def submit(self, work: Work) -> "Future[Any]":
        if self.closed is not None:
            raise self.closed
        future: Future[Any] = Future()
        self.queue.append((work, future))
        return future

    def room(self, cost: int) -> "Future[None]":
        self.room_asked.append(cost)
        return Future()

    def step(self, result: Any = "done") -> list[Work]:
        """Runs all that waits; what was cancelled is skipped."""
        taken, self.queue = self.queue, []
        works = []
        for work, future in taken:
            if future.set_running_or_notify_cancel():
                works.append(work)
                if isinstance(result, BaseException):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        return works


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that is valid once its commit is durable."""

    durable: "Future[None]"


@dataclass
class Rooms:
    """A pipeline with its hand-moved rooms."""

    limits: PipelineLimits = field(default_factory=PipelineLimits)
    encoder: HandEncoder = field(default_factory=HandEncoder)
    batcher: HandBatcher = field(default_factory=HandBatcher)

    def __post_init__(self) -> None:
        self.pipeline = Pipeline(
            self.batcher, self.encoder, {"view": 2}, MODEL, EventLimits(), self.limits, clock=lambda: NOW
        )

    def submit(self, *events: Sent, **options: object) -> Submission:
        call = Call(0, len(events), CallOptions(**options))
        return self.pipeline.submit(batch_of(events), [call])

    def submit_calls(self, *calls: Sequence[Sent]) -> Submission:
        rows, made = [], []
        for events in calls:
            made.append(Call(len(rows), len(rows) + len(events), CallOptions()))
            rows += events
        return self.pipeline.submit(batch_of(rows), made)

    def queued(self) -> list[str]:
        """First message id of each work in the queue, in order."""
        return [name_of(work) for work, _ in self.batcher.queue]


def name_of(work: Work) -> str:
    if isinstance(work, EventWork):
        return str(work.arrival.message_ids[0].as_py())
    return "rank" if isinstance(work, RankWork) else "task"


def arrival_in(submission: Submission) -> Arrival:
    assert isinstance(submission.work, EventWork)
    return submission.work.arrival
