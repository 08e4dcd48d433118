"""Live traffic: the events of many users at once, each user's in order, one Predict per event."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from demo.world import Moment
from nextact import Client, Event, EventStatus

PREFIX = "movielens-"
"""Before the data's user ids, so that the demo's users are nobody else's."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A prediction as it was held when the user acted: items best first, and the likeliest action."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    action: str
    probability: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a user did, what the server had expected before, and how long the answer took, in seconds.

    `paced` says that the event waited its turn at reading speed.
    """

    moment: Moment
    expected: Expected
    seconds: float
    paced: bool


@dataclass(frozen=True, slots=True)
class Pace:
    """The first `events` events come at `per_second`, the others as soon as a worker is free."""

    events: int
    per_second: float


class Refused(RuntimeError):
    """The server did not accept an event; the message says why."""


class Traffic:
    """Plays users' events against a server with `workers` callers. A context manager; leaving it stops the callers.

    Args:
        client: shared by the callers.
        live: each user's events, oldest first.
        held: the prediction held for each user before the first of them.
        told: called with every outcome, by the callers' threads.
    """

    def __init__(
        self,
        client: Client,
        live: Mapping[str, Sequence[Moment]],
        held: Mapping[str, Expected],
        told: Callable[[Outcome], None],
        *,
        pace: Pace,
        workers: int,
    ) -> None:
        self._client = client
        self._told = told
        self._pace = pace
        self._held = dict(held)
        self._live = live
        self._waiting = [(events[0].time, user, 0) for user, events in live.items() if events]
        heapq.heapify(self._waiting)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sent = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="caller")
        self._workers = workers
        self._futures: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._futures = [self._pool.submit(self._call) for _ in range(self._workers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown()

    def done(self, wait_s: float) -> bool:
        """Whether all events were played; waits that long before it says no. Raises what a caller met."""
        finished, running = wait(self._futures, wait_s, FIRST_EXCEPTION)
        for future in finished:
            future.result()
        return not running

    def _call(self) -> None:
        while not self._stop.is_set():
            # The user whose next event is the oldest, among those without an event under way: each one's order holds.
            with self._lock:
                if not self._waiting:
                    return
                _, user, at = heapq.heappop(self._waiting)
                number = self._sent
                self._sent += 1
            paced = number < self._pace.events
            if paced and self._stop.wait(max(0.0, self._start + number / self._pace.per_second - time.monotonic())):
                return
            self._play(user, self._live[user][at], paced)
            if at + 1 < len(self._live[user]):
                with self._lock:
                    heapq.heappush(self._waiting, (self._live[user][at + 1].time, user, at + 1))

    def _play(self, user: str, moment: Moment, paced: bool) -> None:
        event = Event(
            user_id=PREFIX + user,
            action=moment.action,
            item_id=moment.item_id,
            text=moment.text,
            event_time=moment.time,
        )
        start = time.perf_counter()
        answer = self._client.predict([event], top_k=10, outputs=("ITEMS", "ACTIONS"))
        seconds = time.perf_counter() - start
        result = answer.results[0]
        if result.status is not EventStatus.ACCEPTED:
            raise Refused(f"{moment}: {result.status} {result.field} {result.reason}")
        expected = self._held[user]
        prediction = answer.predictions[0]
        action, probability = next(iter(prediction.actions.items()))
        self._held[user] = Expected(prediction.items.ids, tuple(prediction.items.scores.tolist()), action, probability)
        self._told(Outcome(moment, expected, seconds, paced))
