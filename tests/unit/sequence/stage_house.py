"""The sequence stage with all its rooms over a store that fails on demand, and events as a caller spells them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from small_model import ACTIONS, CellName, content_vector, small_card, small_index, small_model

from nextact_server.events.arrival import arrive, with_content
from nextact_server.events.batch import MISSING_TIME, EventBatch
from nextact_server.events.call import Answer, Arrival, Call, CallOptions
from nextact_server.events.identity import UserDirectory, user_keys
from nextact_server.events.validation import EventLimits
from nextact_server.features.time import time_features
from nextact_server.sequence.arena import StateArena
from nextact_server.sequence.config import FIRST_ACTION
from nextact_server.sequence.engine import SequenceEngine
from nextact_server.sequence.journal import Journal
from nextact_server.sequence.outputs import Reader, SeenItems
from nextact_server.sequence.residency import Residency
from nextact_server.sequence.stage import EventWork, SequenceStage, Task, Work
from nextact_server.storage.faulty import FaultyStore
from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import CommitGroup, Erasure

S = 1_000_000
NOW = 1_700_000_000 * S
MODEL_KEY = "small/1"
DEFAULT = CallOptions()
CODES = {action: FIRST_ACTION + at for at, action in enumerate(ACTIONS)}


@dataclass(frozen=True, slots=True)
class Sent:
    """One event as it is sent; `seconds` after NOW; `content` seeds the vector of its text."""

    user: str = "u"
    message: str = ""
    seconds: float = 0.0
    action: str = "view"
    item: str = ""
    content: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: what it sends and what it asks."""

    events: tuple[Sent, ...]
    options: CallOptions = DEFAULT
    history: tuple[Sent, ...] = ()


def batch_of(events: Sequence[Sent]) -> EventBatch:
    def strings(values: list[str]) -> pa.Array:
        return pa.array(values, pa.string())

    return EventBatch(
        size=len(events),
        event_time=np.array([NOW + int(event.seconds * S) for event in events], np.int64),
        sent_at=np.full(len(events), MISSING_TIME, np.int64),
        user_id=strings([event.user for event in events]),
        message_id=strings([event.message for event in events]),
        action=strings([event.action for event in events]),
        item_id=strings([event.item for event in events]),
        text=strings(["" if event.content is None else f"text {event.content}" for event in events]),
    )


def arrival_of(asked: Sequence[Asked], now_us: int = NOW) -> Arrival:
    rows: list[Sent] = []
    calls = []
    for call in asked:
        start = len(rows)
        rows += [*call.history, *call.events]
        calls.append(Call(start, len(rows), call.options, len(call.history)))
    arrival = arrive(batch_of(rows), calls, EventLimits(), CODES, now_us)
    shown = [row for row, event in enumerate(rows) if event.content is not None and arrival.valid[row]]
    if not shown:
        return arrival
    hashes = np.array([[rows[row].content or 0] * 16 for row in shown], np.uint8)
    vectors = np.stack([content_vector(rows[row].content or 0) for row in shown])
    return with_content(arrival, np.array(shown, np.int64), hashes, vectors)


def key_of(user: str) -> np.ndarray:
    return user_keys(pa.array([user]), pa.array([""]))[0]


@dataclass
class Counts:
    """An observer that adds up."""

    total: list[int] = field(default_factory=lambda: [0] * 7)

    def events_done(self, counts: Sequence[int]) -> None:
        self.total = [a + b for a, b in zip(self.total, counts, strict=True)]


class House:
    """Stage, arena, journal and store, wired as the server does it."""

    def __init__(
        self,
        cell: CellName = "gru",
        *,
        capacity: int = 64,
        apply_late: bool = True,
        seen_users: int = 64,
        lateness_s: float = 60.0,
    ) -> None:
        self.model = small_model(cell)
        self.index = small_index(self.model)
        self.engine = SequenceEngine(self.model, self.index, time_features, lateness_s, apply_late)
        self.store = FaultyStore(MemoryStore())
        self.arena = StateArena(self.model.state_spec(), capacity, torch.device("cpu"))
        self.residency = Residency(self.arena, self.engine, self.store, MODEL_KEY)
        self.seen = SeenItems(self.engine, self.store, seen_users)
        self.health: list[bool] = []
        self.journal = Journal(self.store, self.health.append)
        self.journal.recover = self._recover
        self.recovered: list[int] = []
        self.directory = UserDirectory()
        self.counts = Counts()
        self.reader = Reader(self.engine, self.seen, small_card(self.model).exclude_seen_default)
        self.stage = SequenceStage(self.engine, self.residency, self.directory, self.journal, self.reader, self.counts)

    def _recover(self, durable: int) -> None:
        self.recovered.append(durable)
        self.arena.drop_after(durable)
        self.seen.forget()

    def send(self, *asked: Asked) -> Answer:
        """One arrival in a batch of its own."""
        return self.run(self.work(*asked))[0]

    def work(self, *asked: Asked) -> EventWork:
        """An arrival that follows on what the journal holds now."""
        return EventWork(arrival_of(asked), self.journal.epoch)

    def apply(self, *events: Sent) -> Answer:
        return self.send(Asked(events))

    def run(self, *works: Work) -> list[Any]:
        return self.stage.run(works)

    def erase(self, user: str, *, suppress: bool = False) -> Task:
        """As the server erases a user, in the user's turn."""

        def task() -> "Future[None]":
            key = key_of(user)
            ordinal = self.directory.resolve(key)
            self.residency.reserve(ordinal, self.journal.durable)
            erasure = Erasure(int(ordinal[0]), (int(key[0, 0]), int(key[0, 1])), suppress)
            durable = self.journal.commit(CommitGroup(self.journal.sequence + 1, erased=(erasure,)))
            self.residency.restart(ordinal, self.journal.sequence, self.journal.durable)
            self.seen.forget(ordinal.tolist(), durable)
            return durable

        return Task(task)

    def state(self, user: str) -> tuple[int, int, Mapping[str, np.ndarray]]:
        """events_seen, last effective time and tensors of a user."""
        ordinal = self.directory.resolve(key_of(user))
        states = self.arena.gather(self.residency.bring(ordinal, self.journal.durable))
        tensors = {name: tensor[0].numpy() for name, tensor in states.tensors.items()}
        return int(states.events_seen[0]), int(states.last_time[0]), tensors


def assert_same_user(got: House, wanted: House, user: str, atol: float = 1e-5) -> None:
    ours, theirs = got.state(user), wanted.state(user)
    assert ours[:2] == theirs[:2]
    for name, tensor in theirs[2].items():
        np.testing.assert_allclose(ours[2][name], tensor, rtol=0, atol=atol)
