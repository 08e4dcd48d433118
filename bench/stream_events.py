"""StreamEvents with Arrow messages, beside a bare loop of the recurrent step over the same batches."""

from functools import partial
from typing import Any

import numpy as np

from bench.figures import Figure, Sample, Target, alternate, ratios, sample
from bench.messages import movie_titles
from bench.plan import Plan
from bench.processes import Worker, cpu_seconds, nextact_server, register, worker

__all__ = ["measure"]

PART = "StreamEvents, Arrow"
USERS = 20_000
EVENTS = 80_000
"""Events in one round."""
ITEMS = 1000


def measure(plan: Plan) -> list[Figure]:
    """Events per second through the server and through the bare step, in turn."""
    plan.say("starting a server, registering 1,000 items")
    with (
        nextact_server(plan.repository) as served,
        worker("stream_worker") as client,
        worker("bare_step", str(plan.repository / "next_action" / "1"), str(USERS)) as bare,
    ):
        register(served.grpc, movie_titles(ITEMS))
        stream = _Stream(client, served.grpc, served.pid)
        figures: list[Figure] = []
        for name, per_message, skewed, target in (
            ("512 events a message, all of different users", 512, False, Target("at least", 0.5)),
            ("512 events a message, users repeat", 512, True, None),
            ("64 events a message, all of different users", 64, False, None),
            ("4,096 events a message, all of different users", 4096, False, None),
        ):
            if target is None and plan.is_quick:
                continue
            plan.say(name)
            events = plan.size(EVENTS if per_message > 64 else EVENTS // 4, 8192)
            lanes = _lanes(events // per_message, per_message, skewed)
            stream.cpu.clear()
            taken = alternate(plan.rounds, [partial(stream.rate, lanes), partial(_bare_rate, bare, lanes)])
            figures += _figures(name, stream, taken, target)
    return figures


class _Stream:
    """Streams batches to a server, every event a new one."""

    def __init__(self, client: Worker, target: str, pid: int) -> None:
        self._client = client
        self._target = target
        self._pid = pid
        self._first = 0
        self.cpu: list[tuple[float, float]] = []

    def rate(self, lanes: list[list[int]]) -> float:
        """Events per second."""
        events = sum(map(len, lanes))
        before = cpu_seconds(self._pid)
        done = self._client.ask(target=self._target, lanes=lanes, first=self._first, items=ITEMS)
        self._first += events
        self.cpu.append((1e6 * (cpu_seconds(self._pid) - before) / events, 1e6 * done["client_cpu"] / events))
        return events / float(done["seconds"])


def _figures(name: str, stream: _Stream, taken: list[Sample], target: Target | None) -> list[Figure]:
    ours, bare = taken
    server, client = (sample([pair[side] for pair in stream.cpu]).median for side in (0, 1))
    note = f"client in another process; CPU per event {server:.1f} us server, {client:.1f} us client"
    extra: dict[str, Any] = {"server_cpu_us_per_event": server, "client_cpu_us_per_event": client}
    return [
        Figure(PART, name, "events/s", ours, None, note, extra),
        Figure(PART, f"{name}: bare step", "events/s", bare, None, "gather, cell and scatter, one torch thread"),
        Figure(PART, f"{name}: against the bare step", "ratio", ratios(ours, bare), target),
    ]


def _bare_rate(bare: Worker, lanes: list[list[int]]) -> float:
    return sum(map(len, lanes)) / float(bare.ask(lanes=lanes)["seconds"])


def _lanes(messages: int, per_message: int, skewed: bool) -> list[list[int]]:
    """User numbers per message: all different within each, or drawn by a power law, some of them many times."""
    random = np.random.default_rng(0)
    if skewed:
        return [np.minimum(random.zipf(1.3, per_message) - 1, USERS - 1).tolist() for _ in range(messages)]
    return [random.permutation(USERS)[:per_message].tolist() for _ in range(messages)]
