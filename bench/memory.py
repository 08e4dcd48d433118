"""Memory of the server: after the start, per resident user, per stored event."""

from pathlib import Path

import numpy as np

from bench.figures import Figure, sample
from bench.plan import Plan
from bench.processes import Worker, nextact_server, resident_bytes, worker

__all__ = ["measure"]

PART = "Memory"
USERS = 60_000
SMALL_ARENA = {"resident-users": "1000", "max-stream-events": "1000", "max-predict-events": "1000"}
"""As few resident users as one message may name."""
RESIDENTS = 200_000
EVENTS_PER_USER = 6
PER_MESSAGE = 4000


def measure(plan: Plan) -> list[Figure]:
    """Resident memory as the server starts, meets users, and stores more events of theirs."""
    users = plan.size(USERS, 20_000)
    plan.say(f"{users:,} users, then {EVENTS_PER_USER} more events of each")
    with nextact_server(plan.repository, SMALL_ARENA) as served:
        smallest = resident_bytes(served.pid)
    with (
        nextact_server(plan.repository, {"resident-users": str(RESIDENTS)}) as served,
        worker("stream_worker") as client,
    ):
        started = resident_bytes(served.pid)
        _send(client, served.grpc, range(users, users + 2 * PER_MESSAGE), 0)  # buffers and code that first calls touch
        warm = resident_bytes(served.pid)
        first = 2 * PER_MESSAGE
        _send(client, served.grpc, range(users), first)
        met = resident_bytes(served.pid)
        for turn in range(EVENTS_PER_USER):
            _send(client, served.grpc, range(users), first + (1 + turn) * users)
        filled = resident_bytes(served.pid)
    per_event = (filled - met) / (users * EVENTS_PER_USER)
    row = _arena_row(plan.repository / "next_action" / "1")
    return [
        Figure(PART, "server after the start", "MiB", sample([started / 2**20]), None, "resident set"),
        Figure(
            PART, "a resident user", "bytes", sample([(started - smallest) / (RESIDENTS - 1000)]), None,
            f"a start with room for {RESIDENTS:,} users against one for 1,000; state and columns alone make {row:.0f}",
        ),
        Figure(
            PART, "a user's first event, everything", "bytes", sample([(met - warm) / users]), None,
            "growth of the resident set: directory, stored event, message id; the arena is there from the start",
        ),
        Figure(
            PART, "a further event", "bytes", sample([per_event]), None,
            f"growth of the resident set over {users * EVENTS_PER_USER:,} events: stored event, message id",
        ),
        Figure(PART, "server with all of that", "MiB", sample([filled / 2**20])),
    ]  # fmt: skip


def _send(client: Worker, target: str, users: range, first: int) -> None:
    numbers = list(users)
    lanes = [numbers[start : start + PER_MESSAGE] for start in range(0, len(numbers), PER_MESSAGE)]
    client.ask(target=target, lanes=lanes, first=first, items=1000)


def _arena_row(version_dir: Path) -> float:
    from nextact_server.sequence.checkpoint import load_model

    model, _ = load_model(version_dir)
    columns = 5  # events seen, last time, last group, last used, user: int64 each
    return 4.0 * sum(int(np.prod(shape)) for shape in model.state_spec().values()) + 8 * columns
