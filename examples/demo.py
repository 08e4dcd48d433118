"""Serve real behaviour end to end, and measure how well what comes next was expected.

    python examples/demo.py                  starts a server of its own, and stops it at the end
    python examples/demo.py --users 5        fewer people
    python examples/demo.py --server HOST:PORT --metrics HOST:PORT    uses a running one

The people are MovieLens users that the shipped model was never trained on. Their earlier events are replayed as a
stream, the last fifth arrives one by one; before each event stands what the server had answered to the one before.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import numpy as np
import polars as pl
import pyarrow as pa
from demo import closing
from demo.board import Board
from demo.closing import Speed
from demo.gauges import Gauges, read_gauges
from demo.judge import judge_served
from demo.server_process import ServerFailed, ServerProcess
from demo.traffic import PREFIX, Expected, Pace, Refused, Traffic
from demo.world import World, build_world
from nextact import Client, Content, Deadlines, Item, ItemStatus, NextactError, StreamAck, StreamPredictions
from rich.console import Console
from rich.live import Live
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "build" / "demo" / "server.log"
START_S = 180.0
MESSAGE = 512
READING_PER_S = 25.0
QUERIES = ("something citrus for breakfast", "milk without the cow", "green and leafy", "a tropical fruit")


def main() -> int:
    """Runs the demo; returns the exit code."""
    arguments = parse(sys.argv[1:])
    console = Console(highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with ExitStack() as stack:
            run(arguments, console, stack)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (ServerFailed, Refused, NextactError, OSError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Serve real behaviour end to end, and measure it.")
    parser.add_argument("--users", type=int, help="how many held-out users act (default: all)")
    parser.add_argument("--server", help="a running server, host:port, with the shipped model (default: start one)")
    parser.add_argument("--metrics", help="its metrics address, host:port (default: leave its own figures out)")
    parser.add_argument("--workers", type=int, default=8, help="callers at once (default: 8)")
    parser.add_argument(
        "--watch", type=float, default=10.0, metavar="SECONDS", help="how long events come at reading speed (10)"
    )
    parser.add_argument("--model-repository", type=Path, help="for the server that is started (default: the shipped)")
    return parser.parse_args(words)


def run(arguments: argparse.Namespace, console: Console, stack: ExitStack) -> None:
    """Tells the story from the server's start to the closing figures."""
    begin = time.monotonic()
    process = None
    if arguments.server is None:
        flags = ["--model-repository", str(arguments.model_repository)] if arguments.model_repository else []
        process = stack.enter_context(ServerProcess(ROOT, LOG, flags))
    with console.status("starting the server (the first time it converts the encoders) and reading the data"):
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="nextact-demo-"))
        world = build_world(ROOT / "examples", Path(scratch), arguments.users)
        server, metrics = process.addresses(START_S) if process else (arguments.server, arguments.metrics)
    console.print(f"[bold]1. The server[/] is SERVING at {server} after {time.monotonic() - begin:.1f} s")
    # Generous deadlines: this machine may be busy, and the figures below show the time that calls really took.
    client = stack.enter_context(Client(server, deadlines=Deadlines(predict=30, upsert_items=300, embed=60)))

    register(client, world, console)
    look_up(client, world, console)
    held, stream = replay(client, world, console)
    before = read_gauges(metrics) if metrics else None
    board, live = play(client, world, held, arguments, console)
    whole = read_gauges(metrics) if metrics else None
    now = whole.since(before) if whole and before else None

    console.print("[bold]5. What it came to[/]")
    evaluation = judge_served(world.data, {outcome.moment.row: outcome.expected for outcome in board.outcomes})
    console.print(closing.quality(evaluation))
    console.print(closing.gains(evaluation))
    console.print(closing.speed(board.outcomes, stream, live, arguments.workers, whole, now))
    console.print(f"done in {time.monotonic() - begin:.0f} s")


def register(client: Client, world: World, console: Console) -> None:
    """Registers the catalogue, twice: the second time every content is known."""
    items = [*world.movies, *world.groceries]
    blocks = [items[start : start + 500] for start in range(0, len(items), 500)]
    start = time.monotonic()
    shown = track(blocks, "registering items", console=console, transient=True, disable=not console.is_terminal)
    for block in shown:
        _upsert(client, block)
    first, start = time.monotonic() - start, time.monotonic()
    for block in blocks:
        _upsert(client, block)
    again = time.monotonic() - start
    console.print(
        f"[bold]2. The catalogue[/]: {len(world.movies):,} movies by their texts and {len(world.groceries)} groceries "
        f"by text and photo in {first:.1f} s; the same again, all content known, in {again:.2f} s"
    )


def look_up(client: Client, world: World, console: Console) -> None:
    """Shows the groceries nearest to a few texts, by vectors of their text and photo, and of the photo alone."""
    both = client.embed(Content(item.text, item.image) for item in world.groceries).vectors
    photo = client.embed(item.image for item in world.groceries).vectors
    asked = client.embed(QUERIES).vectors
    table = Table("asked for", "nearest by text and photo", "nearest by the photo alone", title_justify="left")
    for query, vector in zip(QUERIES, asked, strict=True):
        table.add_row(query, *(_nearest(world.groceries, world.names, kind @ vector) for kind in (both, photo)))
    console.print(table)


def replay(client: Client, world: World, console: Console) -> tuple[dict[str, Expected], Speed]:
    """Streams the earlier events, and returns what is then expected of each user."""
    for user in world.live:
        client.delete_user(PREFIX + user)  # every run on a running server starts alike
    start = time.monotonic()
    _check(client.stream(_messages(world.history), id_prefix="history"))
    speed = Speed(world.history.height, time.monotonic() - start)
    # The last event of each user asks for the prediction that the first live event is held against.
    last = client.stream(
        _messages(world.before),
        id_prefix="before",
        predictions=StreamPredictions.LAST_PER_USER,
        top_k=10,
        outputs=("ITEMS", "ACTIONS"),
    )
    held = dict(pair for ack in _check(last) for pair in _expected(ack))
    console.print(f"[bold]3. The past[/] of {len(held)} users the model never saw, streamed as Arrow: {speed}")
    return held, speed


def play(
    client: Client, world: World, held: Mapping[str, Expected], arguments: argparse.Namespace, console: Console
) -> tuple[Board, Speed | None]:
    """Plays the later events live and shows them; returns the outcomes and the speed of what was not paced."""
    total = sum(map(len, world.live.values()))
    pace = Pace(min(total, int(arguments.watch * READING_PER_S)), READING_PER_S)
    console.print(
        f"[bold]4. Live[/]: {total:,} events, one Predict each, {arguments.workers} callers at once; the first "
        f"{pace.events} at reading speed"
    )
    board = Board(world.names, total)
    start = time.monotonic()
    with Traffic(client, world.live, held, board.tell, pace=pace, workers=arguments.workers) as traffic:
        if console.is_terminal:
            with Live(board.table(), console=console, auto_refresh=False) as screen:
                while not (done := traffic.done(0.15)):
                    screen.update(board.table(), refresh=True)
                screen.update(board.table(), refresh=done)
        else:
            told = 0
            while not traffic.done(0.05):
                if len(board.outcomes) >= told + max(1, total // 20):
                    told = len(board.outcomes)
                    console.print(board.line(), markup=False, soft_wrap=True)
            console.print(board.line(), markup=False, soft_wrap=True)
    fast = total - pace.events
    # The last paced event left at (events - 1) / rate; from then on the callers were free.
    paced_s = max(0, pace.events - 1) / pace.per_second
    return board, Speed(fast, time.monotonic() - start - paced_s) if fast else None


def _upsert(client: Client, items: Sequence[Item]) -> None:
    for result in client.upsert_items(items):
        if result.status is ItemStatus.INVALID:
            raise Refused(f"item {result.item_id}: {result.reason}")


def _nearest(items: Sequence[Item], names: Mapping[str, str], similarity: np.ndarray) -> str:
    return ", ".join(f"{names[items[at].item_id]} {similarity[at]:.2f}" for at in np.argsort(-similarity)[:3])


def _messages(events: pl.DataFrame) -> Iterator[pa.Table]:
    named = events.with_columns(PREFIX + pl.col("user_id"))
    for start in range(0, events.height, MESSAGE):
        yield named.slice(start, MESSAGE).to_arrow()


def _check(acks: Iterator[StreamAck]) -> list[StreamAck]:
    kept = list(acks)
    for ack in kept:
        for failure in ack.failures:
            raise Refused(f"event {failure.index} of message {ack.number}: {failure.status} {failure.reason}")
    return kept


def _expected(ack: StreamAck) -> Iterator[tuple[str, Expected]]:
    columns = ack.columns
    assert columns is not None
    for row, user in enumerate(columns.user_ids):
        best = int(columns.actions[row].argmax())
        items = [(str(i), float(s)) for i, s in zip(columns.item_ids[row], columns.item_scores[row], strict=True) if i]
        yield (
            user.removeprefix(PREFIX),
            Expected(
                tuple(item for item, _ in items),
                tuple(score for _, score in items),
                columns.action_names[best],
                float(columns.actions[row, best]),
            ),
        )


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
