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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from demo import closing
from demo.board import Board
from demo.catalogue import look_up, register
from demo.closing import Speed
from demo.gauges import read_gauges
from demo.judge import UnknownItem, judge_served
from demo.replay import replay
from demo.server_process import ServerFailed, ServerProcess
from demo.traffic import Expected, Pace, Refused, Traffic
from demo.world import World, build_world
from rich.console import Console
from rich.live import Live

from nextact import Client, Deadlines, NextactError
from nextact_server.repository.reader import ModelRepository
from nextact_server.sequence.card import load_card

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "build" / "demo" / "server.log"
START_S = 180.0
READING_PER_S = 25.0


def main() -> int:
    """Runs the demo; returns the exit code."""
    arguments = parse(sys.argv[1:])
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the shell had it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with ExitStack() as stack:
            run(arguments, console, stack)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (ServerFailed, Refused, UnknownItem, NextactError, OSError) as error:
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
    state = f"is SERVING at {server} after {time.monotonic() - begin:.1f} s" if process else f"at {server}"
    console.print(f"[bold]1. The server[/] {state}")
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
    if process is not None and arguments.users is None:
        version = ModelRepository(ROOT / (arguments.model_repository or "model_repository")).get("next_action")
        console.print(closing.beside_the_card(evaluation, load_card(version.version_dir())))
    console.print(closing.speed(board.outcomes, stream, live, arguments.workers, whole, now))
    console.print(f"done in {time.monotonic() - begin:.0f} s")


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


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
