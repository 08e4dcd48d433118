"""What an event costs a user with a long history: number 10,000 against number 10, through Predict."""

from typing import Any

from bench.figures import Figure, Sample, Target, percentile, ratios, sample
from bench.messages import movie_titles
from bench.plan import Plan
from bench.processes import Served, Worker, nextact_server, register, worker

__all__ = ["measure"]

PART = "Growth"
OLD_USERS = 10
HISTORY = 10_000
DISTINCT_ITEMS = 5000
PER_MESSAGE = 5000
PAIRS = 300
"""Calls of each kind in one round."""


def measure(plan: Plan) -> list[Figure]:
    """Calls of old and of new users in turn, call by call, with one caller: the medians of each round compared."""
    plan.say("starting a server, filling histories")
    with nextact_server(plan.repository) as served, worker("stream_worker") as stream, worker("load_worker") as load:
        register(served.grpc, movie_titles(1000))
        pairs = plan.size(PAIRS, 60)
        filled = _Filled(served, stream)
        filled.add([user for _ in range(HISTORY - 1) for user in range(OLD_USERS)])
        figures: list[Figure] = []
        for name, outputs in (
            ("embedding and actions", ["EMBEDDING", "ACTIONS"]),
            ("top 10 items, seen ones left out", ["EMBEDDING", "ACTIONS", "ITEMS"]),
        ):
            plan.say(name)
            old, new = [], []
            for number in range(plan.rounds + 1):
                fresh = [filled.next_user() for _ in range(pairs)]
                filled.add([user for _ in range(9) for user in fresh])
                latencies = _round(load, filled, fresh, outputs)
                if number:  # the first warms up
                    old.append(1e3 * percentile(latencies[0::2], 50))
                    new.append(1e3 * percentile(latencies[1::2], 50))
            figures += _figures(name, sample(old), sample(new))
    return figures


class _Filled:
    """Fills users' histories through the stream; user numbers below OLD_USERS are those with a long past."""

    def __init__(self, served: Served, stream: Worker) -> None:
        self.target = served.grpc
        self.events = 0
        self._stream = stream
        self._users = OLD_USERS

    def next_user(self) -> int:
        """The number of a user never seen."""
        self._users += 1
        return self._users

    def add(self, users: list[int]) -> None:
        """One event for each entry, in order."""
        lanes = [users[start : start + PER_MESSAGE] for start in range(0, len(users), PER_MESSAGE)]
        self._stream.ask(target=self.target, lanes=lanes, first=self.events, items=DISTINCT_ITEMS)
        self.events += len(users)


def _round(load: Worker, filled: _Filled, fresh: list[int], outputs: list[str]) -> list[float]:
    users = [f"user-{user}" for at, new in enumerate(fresh) for user in (at % OLD_USERS, new)]
    order: dict[str, Any] = {"target": filled.target, "calls": len(users), "warm_up": 0, "concurrency": 1}
    done = load.ask(**order, first=filled.events, users=1, user_ids=users, outputs=outputs, check=True)
    filled.events += len(users)
    if done["outcomes"] != {"ACCEPTED": len(users)}:
        raise RuntimeError(f"events became {done['outcomes']}")
    latencies: list[float] = done["latencies"]
    return latencies


def _figures(name: str, old: Sample, new: Sample) -> list[Figure]:
    return [
        Figure(PART, f"event number 10,000 and on, {name}", "ms", old, None, "median latency, one caller"),
        Figure(PART, f"event number 10, {name}", "ms", new, None, "call by call in turn with the other"),
        Figure(PART, f"10,000 against 10, {name}", "ratio", ratios(old, new), Target("at most", 1.1)),
    ]
