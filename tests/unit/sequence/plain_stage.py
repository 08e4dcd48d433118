"""What a stage must answer, said once more as plainly as possible: one event at a time, dicts and sets, no columns."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from small_model import Event, step_of
from stage_house import CODES, NOW, Asked, S, Sent

from nextact_server.events.call import CallOptions, Filter, Per, Want
from nextact_server.events.status import Status
from nextact_server.sequence.arena import UserStates
from nextact_server.sequence.engine import SequenceEngine

LATENESS_US = 60 * S


@dataclass
class PlainUser:
    states: UserStates
    items: set[str] = field(default_factory=set)
    ids: dict[object, tuple[Status, bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainPrediction:
    user: str
    row: int
    events_seen: int
    hidden: torch.Tensor
    seen: frozenset[str]


@dataclass(frozen=True)
class PlainAnswer:
    status: list[int]
    original: list[int]
    applied: list[bool]
    predictions: list[PlainPrediction]


class PlainStage:
    """The law of the stage, for one engine."""

    def __init__(self, engine: SequenceEngine, *, apply_late: bool) -> None:
        self.engine = engine
        self.apply_late = apply_late
        self.users: dict[str, PlainUser] = {}
        self.suppressed: set[str] = set()

    def user(self, name: str) -> PlainUser:
        return self.users.setdefault(name, PlainUser(self.engine.initial(1)))

    def erase(self, name: str, *, suppress: bool) -> None:
        self.users.pop(name, None)
        if suppress:
            self.suppressed.add(name)

    def call(self, asked: Asked) -> PlainAnswer:
        if not asked.options.dry_run and not asked.history:
            return self._apply(asked)
        world = PlainStage(self.engine, apply_late=self.apply_late)
        if not asked.history:
            world.users, world.suppressed = deepcopy(self.users), set(self.suppressed)
        return world._apply(asked)

    def rank(self, name: str, options: CallOptions) -> tuple[list[tuple[str, float]], int]:
        user = self.users.get(name) or PlainUser(self.engine.initial(1))
        hidden = self.engine.model.hidden(user.states.tensors)[0]
        return self.best(hidden, user.items, options), int(user.states.events_seen[0])

    def best(
        self, hidden: torch.Tensor, seen: set[str] | frozenset[str], options: CallOptions
    ) -> list[tuple[str, float]]:
        """The items of a prediction, by a plain sort."""
        index = self.engine.index
        with torch.inference_mode():
            scores = index.logits(self.engine.model.query(hidden[None]), None)[0]
        rows = np.flatnonzero(torch.isfinite(scores).numpy())
        excluded = seen if options.filter.exclude_seen is not False else set()
        named = {name: float(scores[row]) for name, row in zip(index.ids(rows), rows.tolist(), strict=True)}
        left = [(name, score) for name, score in named.items() if name not in excluded]
        return sorted(left, key=lambda pair: (-pair[1], pair[0]))[: options.top_k]

    def _apply(self, asked: Asked) -> PlainAnswer:
        rows = [*asked.history, *asked.events]
        answer = PlainAnswer([], [], [], [])
        seen_before: dict[tuple[object, ...], int] = {}
        last: dict[str, PlainPrediction] = {}
        for number, event in enumerate(rows):
            identity: tuple[object, ...] = ("id", event.message)
            if not event.message:
                fields = ("derived", event.seconds, event.user, event.action, event.item, event.content)
                seen_before[fields] = seen_before.get(fields, -1) + 1
                identity = (*fields, seen_before[fields])
            status, original, applied = self._event(event, identity)
            answer.status.append(int(status))
            answer.original.append(int(original))
            answer.applied.append(applied)
            if not event.user or status == Status.SUPPRESSED:
                continue
            user = self.users.get(event.user) or PlainUser(self.engine.initial(1))
            prediction = PlainPrediction(
                event.user,
                number,
                int(user.states.events_seen[0]),
                self.engine.model.hidden(user.states.tensors)[0].clone(),
                frozenset(user.items),
            )
            if asked.options.per is Per.EVENT and status in (Status.ACCEPTED, Status.LATE):
                answer.predictions.append(prediction)
            last[event.user] = prediction
        if asked.options.per is Per.USER:
            answer.predictions.extend(last.values())
        return answer

    def _event(self, event: Sent, identity: object) -> tuple[Status, int, bool]:
        if event.user and event.user in self.suppressed:
            return Status.SUPPRESSED, 0, False
        if not event.user or not event.action or event.seconds > 300:
            return Status.INVALID, 0, False
        user = self.user(event.user)
        if identity in user.ids:
            original, applied = user.ids[identity]
            return Status.DUPLICATE, int(original), applied
        time, newest = NOW + int(event.seconds * S), int(user.states.last_time[0])
        is_late = user.states.last_time[0] != np.iinfo(np.int64).min and time < newest - LATENESS_US
        applied = self.apply_late or not is_late
        if applied:
            row = Event(0, time, CODES.get(event.action, 1), event.item or None, event.content)
            user.states = self.engine.step(step_of([row]), user.states).states
        status = Status.LATE if is_late else Status.ACCEPTED
        user.ids[identity] = status, applied
        if event.item:
            user.items.add(event.item)
        return status, 0, applied


def assert_answer(plain: PlainStage, got: object, asked: Sequence[Asked], wanted: Sequence[PlainAnswer]) -> None:
    """Compares a stage's Answer of an arrival with what the plain stage said of its calls."""
    if isinstance(got, BaseException):
        raise got
    assert got.status.tolist() == [status for answer in wanted for status in answer.status]
    assert got.original.tolist() == [status for answer in wanted for status in answer.original]
    assert got.applied.tolist() == [applied for answer in wanted for applied in answer.applied]
    expected = [
        (call, offset, prediction)
        for call, (offset, answer) in enumerate(zip(_offsets(wanted), wanted, strict=True))
        for prediction in answer.predictions
    ]
    columns = got.predictions
    if not expected:
        assert columns is None
        return
    assert columns.call.tolist() == [call for call, _, _ in expected]
    assert columns.row.tolist() == [offset + prediction.row for _, offset, prediction in expected]
    assert columns.events_seen.tolist() == [prediction.events_seen for _, _, prediction in expected]
    for at, (call, _, prediction) in enumerate(expected):
        _assert_outputs(plain, columns, at, asked[call].options, prediction)


def _assert_outputs(
    plain: PlainStage, columns: object, at: int, options: CallOptions, prediction: PlainPrediction
) -> None:
    model = plain.engine.model
    with torch.inference_mode():
        if options.want & Want.EMBEDDING:
            wanted = model.query(prediction.hidden[None])[0].numpy()
            np.testing.assert_allclose(columns.embedding[at], wanted, rtol=0, atol=1e-5)
        if options.want & Want.ACTIONS:
            wanted = torch.softmax(model.action_logits(prediction.hidden[None]), 1)[0].numpy()
            np.testing.assert_allclose(columns.actions[at], wanted, rtol=0, atol=1e-5)
    if options.want & Want.ITEMS:
        best = plain.best(prediction.hidden, prediction.seen, options)
        rows = columns.item_rows[at]
        assert plain.engine.index.ids(rows[rows >= 0]) == [name for name, _ in best]
        np.testing.assert_allclose(columns.item_scores[at][rows >= 0], [score for _, score in best], rtol=0, atol=1e-4)
        assert np.isneginf(columns.item_scores[at][rows < 0]).all()


def _offsets(answers: Sequence[PlainAnswer]) -> list[int]:
    offsets, at = [], 0
    for answer in answers:
        offsets.append(at)
        at += len(answer.status)
    return offsets


NO_EXCLUSION = Filter(exclude_seen=False)
