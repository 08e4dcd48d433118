"""The sequence stage: one batch of calls from keyed columns to committed events and predictions.

It runs on one thread, which owns all user state, so nothing here locks. A step computes everything first and changes
something last: if it raises, nothing has happened.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.call import Answer, Arrival, Filter, Predictions
from nextact_server.events.identity import UserDirectory
from nextact_server.events.status import OPEN, Status, is_recorded
from nextact_server.sequence.arena import NOWHERE, UserStates
from nextact_server.sequence.engine import SequenceEngine
from nextact_server.sequence.heads import ItemRequest, admitted, next_items, read, score_candidates
from nextact_server.sequence.journal import Journal, StoreUnavailable
from nextact_server.sequence.merge import Merged, merge
from nextact_server.sequence.model import RECENT
from nextact_server.sequence.outputs import STATELESS, Reader, Touched, split
from nextact_server.sequence.records import Verdict, contents, event_rows, repeated, step_rows
from nextact_server.sequence.residency import Residency
from nextact_server.storage.seam import APPLIED_BIT, STATUS_MASK

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class EventWork:
    """Calls to apply. A call whose number is put into `cancelled` before its step is left out.

    `epoch` is the journal's when they arrived: they may follow on events that a commit lost since then, so that after a
    failure they are not applied either. None: they follow on nothing.
    """

    arrival: Arrival
    epoch: int | None = None
    cancelled: set[int] = field(default_factory=set)

    @property
    def is_private(self) -> bool:
        """Whether its calls change nothing; such calls come alone or with their like."""
        return self.arrival.calls[0].is_private

    def alive(self) -> list[bool]:
        """Which calls still have a caller."""
        return [call not in self.cancelled for call in range(len(self.arrival.calls))]


@dataclass(frozen=True, slots=True)
class RankWork:
    """A question about one user, key uint64[1, 2], that records nothing; no candidates: the whole index."""

    user_key: NDArray[np.uint64]
    candidates: tuple[str, ...]
    top_k: int
    filter: Filter


@dataclass(frozen=True, slots=True)
class Ranked:
    """Items for one user: index rows int64[k] and log scores float32[k], best first. Valid once `durable` is done."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    events_seen: int
    durable: "Future[None]"


@dataclass(frozen=True, slots=True)
class Task:
    """Anything else that must happen on the stage's thread, in its turn."""

    run: Callable[[], Any]


Work = EventWork | RankWork | Task


def cost_of(work: Work) -> int:
    """Cost of a work in rows."""
    return work.arrival.batch.size if isinstance(work, EventWork) else 1


class EventObserver(Protocol):
    """Is told what became of events, once per batch."""

    def events_done(self, counts: Sequence[int]) -> None:
        """So many events have each status, by the status's number."""


class SequenceStage:
    """Applies work in order of arrival; see `run`."""

    def __init__(
        self,
        engine: SequenceEngine,
        residency: Residency,
        directory: UserDirectory,
        journal: Journal,
        reader: Reader,
        observer: EventObserver,
    ) -> None:
        self._engine = engine
        self._residency = residency
        self._directory = directory
        self._journal = journal
        self._reader = reader
        self._observer = observer

    def run(self, works: Sequence[Work]) -> list[Any]:
        """One result per work: an Answer, a Ranked, what the task returned, or the exception that is its failure.

        While the store is down nothing is done, and StoreUnavailable is the failure of every work.
        """
        try:
            self._journal.settle()
        except StoreUnavailable as error:  # raised, it would be tried again, and the store reopened, for every half
            return [error] * len(works)
        results: list[Any] = []
        # Calls that change nothing get a turn of their own, so that they see what came before them and nothing after.
        for (is_events, _, is_stale), group in groupby(works, key=self._kind):
            if is_stale:
                results.extend(StoreUnavailable("an earlier commit failed; send the events again") for _ in group)
            elif is_events:
                results.extend(self._isolated([work for work in group if isinstance(work, EventWork)]))
            else:
                results.extend(_guarded(self._answer, work) for work in group)
        return results

    def _kind(self, work: Work) -> tuple[bool, bool, bool]:
        is_stale = isinstance(work, EventWork) and work.epoch not in (None, self._journal.epoch)
        return isinstance(work, EventWork), _is_private(work), is_stale

    # Events ---------------------------------------------------------------------------------------------------------

    def _isolated(self, works: list[EventWork]) -> list[Answer | Exception]:
        """As `_apply`; what fails is halved until it fails alone. Here, and not in the batcher that could do it too,
        because what stands before it in the same run has been kept already and must not be run again."""
        try:
            return self._apply(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
            half = len(works) // 2
            return self._isolated(works[:half]) + self._isolated(works[half:])

    def _apply(self, works: Sequence[EventWork]) -> list[Answer | Exception]:
        started = time.perf_counter()
        if works[0].is_private:
            return [_guarded(self._suppose, work.arrival, time.perf_counter()) for work in works]
        merged = merge([work.arrival for work in works], [work.alive() for work in works])
        return list(self._keep(merged, started))

    def _keep(self, merged: Merged, started: float) -> list[Answer]:
        """Applies events and records them, all in one group."""
        verdict = self._judge(merged, remembered=True)
        rows = np.flatnonzero(merged.identified & (verdict.status != Status.SUPPRESSED))
        users, lane = self._users(merged.user_key[rows], verdict.status[rows] == OPEN)
        arena_rows, states = self._states(users)
        touched = self._step(merged, verdict, rows, lane, users, states)
        predictions = self._reader.predictions(merged, touched, verdict.status)
        recorded = np.flatnonzero(is_recorded(verdict.status[rows]))
        if len(recorded):
            events = event_rows(merged, touched, recorded, verdict)
            self._journal.commit_events(events, contents(merged, rows[recorded]))
            changed = np.unique(lane[touched.stepped.applied])
            whole = len(changed) == len(users)
            states = touched.stepped.states if whole else touched.stepped.states.take(changed)
            self._residency.arena.scatter(arena_rows if whole else arena_rows[changed], states, self._journal.sequence)
        return self._answers(merged, verdict, predictions, started)

    def _users(
        self, keys: NDArray[np.uint64], is_open: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ordinals int64[L] of the users with the given keys, and each row's lane among them.

        Only those who have an event to apply become known; a user never seen otherwise has a negative number.
        """
        if is_open.all():
            ordinals = self._directory.resolve(keys)
        else:
            self._directory.resolve(keys[is_open])
            ordinals = self._directory.find(keys)
            strangers = np.flatnonzero(ordinals < 0)
            if len(strangers):
                _, which = np.unique(keys[strangers], axis=0, return_inverse=True)
                ordinals[strangers] = -1 - which.reshape(-1)
        users, lane = np.unique(ordinals, return_inverse=True)
        return users, lane

    def _states(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], UserStates]:
        """Arena rows int64[L] of users, brought in first, and copies of their states; strangers have none and the
        initial one."""
        known = np.flatnonzero(users >= 0)
        if len(known) == len(users):
            rows = self._residency.bring(users, self._journal.durable)
            return rows, self._residency.arena.gather(rows)
        rows = np.full(len(users), NOWHERE, np.int64)
        states = self._engine.initial(len(users))
        if len(known):
            rows[known] = self._residency.bring(users[known], self._journal.durable)
            states = states.put(known, self._residency.arena.gather(rows[known]))
        return rows, states

    def _suppose(self, arrival: Arrival, started: float) -> Answer:
        """Answers a call that changes nothing: on copies of the states, or on the past that it brings."""
        merged = merge([arrival], [[True] * len(arrival.calls)])
        stateless = any(call.history for call in arrival.calls)
        verdict = self._judge(merged, remembered=not stateless)
        rows = np.flatnonzero(merged.identified & (verdict.status != Status.SUPPRESSED))
        keys, lane = np.unique(merged.user_key[rows], axis=0, return_inverse=True)
        users = np.full(len(keys), STATELESS, np.int64) if stateless else self._directory.find(keys)
        _, states = self._states(users)
        touched = self._step(merged, verdict, rows, lane.reshape(-1), users, states)
        predictions = self._reader.predictions(merged, touched, verdict.status)
        return self._answers(merged, verdict, predictions, started)[0]

    def _step(
        self,
        merged: Merged,
        verdict: Verdict,
        rows: NDArray[np.int64],
        lane: NDArray[np.int64],
        users: NDArray[np.int64],
        states: UserStates,
    ) -> Touched:
        """Steps the rows that are still open, and completes the verdict on them and on their repetitions."""
        active = verdict.status[rows] == OPEN
        stepped = self._engine.step(step_rows(merged, rows, lane, active), states)
        late = stepped.timeline.late[active]
        verdict.status[rows[active]] = np.where(late, Status.LATE, Status.ACCEPTED)
        verdict.applied[rows] |= stepped.applied
        verdict.original[verdict.repeats] = verdict.status[verdict.firsts]
        verdict.applied[verdict.repeats] = verdict.applied[verdict.firsts]
        return Touched(rows=rows, lane=lane, users=users, stepped=stepped)

    def _judge(self, merged: Merged, *, remembered: bool) -> Verdict:
        """What is known of each event before the step; OPEN for those that are to be applied.

        With `remembered` the suppression list and the message ids of earlier calls count.
        """
        status = np.zeros(len(merged), np.int8)
        original = np.zeros(len(merged), np.int8)
        applied = np.zeros(len(merged), np.bool_)
        status[~merged.valid] = Status.INVALID
        for arrival, offset in zip(merged.arrivals, merged.offsets.tolist(), strict=False):
            for row, fault in arrival.faults.items():
                status[offset + row] = fault.status
        if remembered:
            status[self._journal.suppressed(merged.user_key) & merged.identified] = Status.SUPPRESSED
            rows = np.flatnonzero(status == OPEN)
            earlier = self._journal.message_status(merged.message_key[rows], merged.user_key[rows])
            known = earlier != 0
            status[rows[known]] = Status.DUPLICATE
            original[rows[known]] = earlier[known] & STATUS_MASK
            applied[rows[known]] = (earlier[known] & APPLIED_BIT) != 0
        repeats, firsts = repeated(merged.message_key, np.flatnonzero(status == OPEN))
        status[repeats] = Status.DUPLICATE
        return Verdict(status, original, applied, repeats, firsts)

    def _answers(
        self, merged: Merged, verdict: Verdict, predictions: Predictions | None, started: float
    ) -> list[Answer]:
        compute_us = int((time.perf_counter() - started) * 1e6)
        self._observer.events_done(np.bincount(verdict.status, minlength=len(Status) + 1).tolist())
        return [
            Answer(
                arrival=arrival,
                status=verdict.status[start:stop],
                original=verdict.original[start:stop],
                applied=verdict.applied[start:stop],
                predictions=part,
                durable=self._journal.last,
                compute_us=compute_us,
            )
            for arrival, start, stop, part in zip(
                merged.arrivals,
                merged.offsets[:-1].tolist(),
                merged.offsets[1:].tolist(),
                split(predictions, merged),
                strict=True,
            )
        ]

    # Questions ------------------------------------------------------------------------------------------------------

    def _answer(self, work: Work) -> Any:
        assert not isinstance(work, EventWork)
        return self._rank(work) if isinstance(work, RankWork) else work.run()

    def _rank(self, work: RankWork) -> Ranked:
        user = self._directory.find(work.user_key)
        if user[0] >= 0:
            states = self._residency.arena.gather(self._residency.bring(user, self._journal.durable))
        else:
            states = self._engine.initial(1)
        model = self._engine.model
        reading = read(model, model.hidden(states.tensors), states.tensors.get(RECENT))
        seen = self._reader.seen(int(user[0]), work.filter.exclude_seen)
        index = self._engine.index
        if work.candidates:
            wish = replace(work.filter, include=work.candidates)
            if work.filter.include:
                wish = replace(wish, include=tuple(set(work.candidates) & set(work.filter.include)))
            allowed = admitted(index, wish, seen) if wish.include else np.zeros(0, np.int64)
            top_k = min(work.top_k or len(allowed), len(allowed))
            rows, scores = score_candidates(index, reading, allowed, seen, top_k) if top_k else _nothing()
        else:
            ranked, ranked_scores = next_items(index, reading, [ItemRequest(work.top_k, work.filter, seen)])
            rows, scores = ranked[0], ranked_scores[0]
        kept = rows >= 0
        return Ranked(rows[kept], scores[kept], int(states.events_seen[0]), self._journal.last)


def _is_private(work: Work) -> bool:
    return isinstance(work, EventWork) and work.is_private


def _nothing() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.zeros(0, np.int64), np.zeros(0, np.float32)


def _guarded(run: Callable[..., R], *arguments: Any) -> R | Exception:
    """The result, or the exception as a result: one work's failure is not its neighbours'."""
    try:
        return run(*arguments)
    except Exception as error:
        return error
