"""Predict's way through the rooms: check, encode content, wait one's turn, step, keep, answer."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextact_server.events.arrival import arrive, refused
from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Arrival, Call
from nextact_server.events.status import Fault, Status
from nextact_server.events.tickets import Ticket, Tickets
from nextact_server.events.validation import EventLimits
from nextact_server.features.content import ContentEncoder, EncodersFull, Encoding
from nextact_server.features.event_content import contents_of, with_encoded
from nextact_server.inference.batch_future import answer, fail
from nextact_server.inference.batcher import Batcher, BatchError, QueueFull
from nextact_server.inference.together import when_all_done
from nextact_server.sequence.journal import StoreUnavailable
from nextact_server.sequence.stage import EventWork, RankWork, Task, Work

Clock = Callable[[], int]
"""The server's wall clock in microseconds."""


class CallsApart(Exception):
    """Calls that arrived together cannot go on together, for one of them waits: submit each by itself."""


class UnknownModelVersion(Exception):
    """A call asks for a version of the model that is not there; the message names it."""


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """Most events waiting for the model in all, and of one user behind content that is being encoded.

    `spare` is how much more than `queue_events` the batcher's queue holds.
    """

    queue_events: int = 65_536
    user_queue_events: int = 10_000
    spare: int = 65_536


@dataclass(slots=True, eq=False)
class Submission:
    """Work on its way; `future` is done when its result is there and durable. `queue_us` is then how long it waited."""

    work: Work
    cost: int
    future: "Future[Any]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    ticket: "Ticket[Submission] | None" = None
    queued: "Future[Any] | None" = None
    queue_us: int = 0
    store_us: int = 0


class Pipeline:
    """The one place where the rooms meet. Any thread may call it; futures are done on threads of the rooms.

    `batcher` runs the sequence stage; its queue must hold twice `limits.queue_events`, for what is admitted while it
    waits for its content must find room when it goes on. `epoch` is that of the journal.
    """

    def __init__(
        self,
        batcher: Batcher[Work, Any],
        encoder: ContentEncoder,
        actions: Mapping[str, int],
        model: tuple[str, str],
        event_limits: EventLimits,
        limits: PipelineLimits,
        clock: Clock = lambda: time.time_ns() // 1000,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.model = model
        self.epoch = epoch
        self._batcher = batcher
        self._encoder = encoder
        self._actions = actions
        self._event_limits = event_limits
        self._limits = limits
        self._clock = clock
        self._arrival = threading.Lock()
        self._tickets: Tickets[Submission] = Tickets()
        self._awaiting_room: list[Future[None]] = []

    @property
    def waiting_events(self) -> int:
        """Events that wait for their step, those behind content included."""
        return self._batcher.queued_cost + self._tickets.cost

    def submit(self, batch: EventBatch, calls: Sequence[Call], epoch: int | None = None) -> Submission:
        """Takes calls that arrived together, the rows of `batch`; the future gives their Answer.

        Calls that change nothing must come alone. `epoch` is that of the first call that these follow on, where they
        must not be applied unless it was kept; None: they follow on nothing.

        Raises:
            QueueFull: too many events, or contents, are waiting; nothing of the calls was taken.
            CallsApart: one of several calls has to wait, and the others must not wait for it; nothing was taken.
            UnknownModelVersion: a call pins a version that is not there.
        """
        for call in calls:
            if call.options.model_version not in ("", self.model[1]):
                raise UnknownModelVersion(
                    f"model {self.model[0]!r} has no version {call.options.model_version!r}; {self.model[1]!r} serves"
                )
        epoch = self.epoch() if epoch is None else epoch
        arrival = arrive(batch, calls, self._event_limits, self._actions, self._clock())
        contents = contents_of(arrival)
        encoding = self._encoder.encode_hashed([content for _, content in contents]) if contents else []
        rows = [row for row, _ in contents]
        ready = all(content.vector.done() for content in encoding)
        if encoding and ready:
            arrival = with_encoded(arrival, rows, encoding)
        submission = Submission(EventWork(arrival, epoch), cost=max(1, batch.size))
        self._take_turn(submission, arrival, ready=ready)
        if not ready:
            when_all_done([content.vector for content in encoding], lambda: self._encoded(submission, rows, encoding))
        return submission

    def rank(self, work: RankWork) -> Submission:
        """Answers a question about one user as they are when its turn comes, as Ranked. Raises QueueFull."""
        submission = Submission(work, cost=1)
        self._take_turn(submission, None, ready=True)
        return submission

    def run(self, task: Callable[[], Any], user_key: NDArray[np.uint64] | None = None) -> Submission:
        """Runs a task on the thread that owns all state, behind what waits of the user with this key uint64[2].

        Raises QueueFull.
        """
        submission = Submission(Task(task), cost=1)
        self._take_turn(submission, None, ready=True, user_key=user_key)
        return submission

    def room(self, cost: int, refusal: QueueFull | None = None) -> "Future[None]":
        """Done when `cost` events may be submitted: for those who would rather wait than be refused.

        `refusal` is what `submit` raised; the queue that it came from is the one that is waited for.
        """
        if isinstance(refusal, EncodersFull):
            return self._encoder.room(refusal)
        with self._arrival:
            if self._tickets and self._tickets.cost + cost > self._limits.queue_events:
                freed: Future[None] = Future()
                self._awaiting_room.append(freed)
                return freed
        return self._batcher.room(self._limits.spare + cost)

    def withdraw(self, submission: Submission, call: int = 0) -> None:
        """Takes one call of a submission back; what of it is not in a step yet is left out, the others go on."""
        work = submission.work
        if isinstance(work, EventWork):
            work.cancelled.add(call)
            if len(work.cancelled) < len(work.arrival.calls):
                return
        with self._arrival:
            ticket, submission.ticket = submission.ticket, None
            released = self._go_on(self._tickets.withdraw(ticket)) if ticket is not None else []
            queued = submission.queued
        self._went_on(released)
        if queued is not None:
            queued.cancel()
        else:
            submission.future.cancel()

    # Turns ----------------------------------------------------------------------------------------------------------

    def _take_turn(
        self,
        submission: Submission,
        arrival: Arrival | None,
        *,
        ready: bool,
        user_key: NDArray[np.uint64] | None = None,
    ) -> None:
        with self._arrival:
            users: dict[bytes, int] = {} if user_key is None else {user_key.tobytes(): 0}
            if arrival is not None and (not ready or self._tickets):
                users = _events_by_user(arrival)
            if ready and not self._tickets.waits(users):
                self._admit(self._batcher.queued_cost, submission.cost)
                started = self._enqueue([submission])
            else:
                if arrival is not None and len(arrival.calls) > 1:
                    raise CallsApart
                self._admit(self._tickets.cost, submission.cost)
                if isinstance(submission.work, EventWork):
                    users = self._overload(submission.work, users)
                submission.ticket = self._tickets.take(submission, submission.cost, users, ready=ready)
                started = []
        _watch(started)

    def _admit(self, waiting: int, cost: int) -> None:
        limit = self._limits.queue_events
        if waiting + cost > limit:
            raise QueueFull(f"{self.model[0]} (queue_events)", limit, waiting, cost, retry_after_s=0.1)

    def _overload(self, work: EventWork, users: dict[bytes, int]) -> dict[bytes, int]:
        """Marks the events of users who have too many waiting, from the first that is too many on."""
        limit = self._limits.user_queue_events
        over = {user for user, events in users.items() if self._tickets.events_waiting(user) + events > limit}
        if not over:
            return users
        arrival = work.arrival
        taken = {user: self._tickets.events_waiting(user) for user in over}
        failed: dict[int, Fault] = {}
        for row, key in enumerate(arrival.user_key):
            user = key.tobytes()
            if user not in over or not arrival.valid[row]:
                continue
            taken[user] += 1
            if taken[user] > limit:
                reason = f"{taken[user] - 1} events of this user are waiting; at most {limit} may (user_queue_events)"
                failed[row] = Fault("user_id", reason, Status.OVERLOADED)
                users[user] -= 1
        work.arrival = refused(arrival, failed)
        return users

    def _enqueue(self, submissions: Sequence[Submission]) -> Sequence[Submission]:
        for submission in submissions:
            submission.ticket = None
            submission.queued = self._batcher.submit(submission.work)
        return submissions

    def _go_on(self, submissions: Sequence[Submission]) -> Sequence[Submission]:
        """As `_enqueue`, for those who left the line: nobody is there to raise to, so a refusal is their answer."""
        for submission in submissions:
            try:
                self._enqueue([submission])
            except BatchError as error:
                submission.queued = Future()
                submission.queued.set_exception(error)
        return submissions

    def _encoded(self, submission: Submission, rows: Sequence[int], encoding: Sequence[Encoding]) -> None:
        assert isinstance(submission.work, EventWork)
        try:
            resolved = with_encoded(submission.work.arrival, rows, encoding)
        except Exception as error:
            with self._arrival:
                ticket, submission.ticket = submission.ticket, None
                released = self._go_on(self._tickets.withdraw(ticket)) if ticket is not None else []
            self._went_on(released)
            _settle(submission.future, error)
            return
        with self._arrival:
            submission.work.arrival = resolved
            released = self._go_on(self._tickets.settle(submission.ticket)) if submission.ticket is not None else []
        self._went_on(released)

    def _went_on(self, released: Sequence[Submission]) -> None:
        """Follows submissions that left the line, and shows the room they left to those who wait for it."""
        _watch(released)
        with self._arrival:
            waiting, self._awaiting_room = self._awaiting_room, []
        for freed in waiting:
            _settle(freed, None)


def _events_by_user(arrival: Arrival) -> dict[bytes, int]:
    keys, counts = np.unique(arrival.user_key[arrival.identified], axis=0, return_counts=True)
    return {key.tobytes(): count for key, count in zip(keys, counts.tolist(), strict=True)}


def _watch(submissions: Sequence[Submission]) -> None:
    """Lets each submission's future follow its step and then its commit."""
    for submission in submissions:
        assert submission.queued is not None
        submission.queued.add_done_callback(partial(_stepped, submission))


def _stepped(submission: Submission, queued: "Future[Any]") -> None:
    if queued.cancelled():
        submission.future.cancel()
        return
    error = queued.exception()
    result = error if error is not None else queued.result()
    submission.queue_us = int(getattr(queued, "queue_s", 0.0) * 1e6)
    durable: Future[None] | None = getattr(result, "durable", None)
    if durable is None or durable.done():
        _kept(submission.future, result, durable)
        return
    stepped = time.perf_counter()

    def kept(done: "Future[None]") -> None:
        submission.store_us = int((time.perf_counter() - stepped) * 1e6)
        _kept(submission.future, result, done)

    durable.add_done_callback(kept)


def _kept(future: "Future[Any]", result: Any, durable: "Future[None] | None") -> None:
    error = durable.exception() if durable is not None else None
    if error is not None:
        _settle(future, StoreUnavailable(f"the events may not have been kept: {error}; send them again"))
    else:
        _settle(future, result)


def _settle(future: "Future[Any]", result: Any) -> None:
    if isinstance(result, BaseException):
        fail(future, result)
    else:
        answer(future, result)
