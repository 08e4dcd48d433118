"""`python -m bench`: runs the parts one after the other and reports what they measured."""

import importlib
import signal
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from bench.figures import Figure
from bench.machine import describe_machine
from bench.plan import Plan
from bench.processes import ROOT
from bench.report import print_table, write_json, write_markdown

PARTS = (
    "startup",
    "cells",
    "image_encoder",
    "text_encoder",
    "repeated_content",
    "predict",
    "stream_events",
    "growth",
    "memory",
)
WITH_PEERS = ("identity", "reload")
"""Parts of the KServe v2 side, which only run when asked for."""


def main(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this part, repeatable: {', '.join(PARTS + WITH_PEERS)}.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="A minute or two: only what has a target, less of it.")] = False,
    rounds: Annotated[int, typer.Option(min=0, help="Alternations of each comparison. 0: 5, or 3 with --quick.")] = 0,
    repository: Annotated[Path, typer.Option(help="Model repository to serve.")] = ROOT / "model_repository",
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = ROOT / "bench" / "results",
) -> None:
    """Measures nextact beside its limits; every ratio is of things measured in turn in this run."""
    chosen = only or list(PARTS)
    rounds = rounds or (3 if quick else 5)
    if unknown := sorted(set(chosen) - {*PARTS, *WITH_PEERS}):
        raise typer.BadParameter(f"no part {unknown[0]!r}; there are {', '.join(PARTS + WITH_PEERS)}")
    signal.signal(signal.SIGTERM, _leave)  # so that what was started is ended
    console = Console(width=None if sys.stdout.isatty() else 180)
    machine = describe_machine()
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
        f"load {machine['load_before']}"
    )
    began, date = time.monotonic(), datetime.now(UTC)
    figures: list[Figure] = []
    for part in chosen:
        plan = Plan(
            repository=repository.resolve(),
            rounds=rounds,
            effort=0.1 if quick else 1.0,
            say=partial(_say, console, began, part),
        )
        try:
            figures += importlib.import_module(f"bench.{part}").measure(plan)
        except Exception as error:
            console.print_exception()
            figures.append(Figure(part, "failed", "", None, note=f"{type(error).__name__}: {error}"))
    run = {
        "date": date.isoformat(timespec="seconds"),
        "quick": quick,
        "rounds": rounds,
        "parts": chosen,
        "repository": str(repository),
        "seconds": time.monotonic() - began,
    }
    print_table(console, figures)
    name = f"local-{date:%Y-%m-%dT%H%M%S}"
    write_json(out / f"{name}.json", machine, run, figures)
    write_markdown(out / f"{name}.md", machine, run, figures)
    console.print(f"{run['seconds']:.0f} s; {out / name}.json and .md")
    if any(figure.name == "failed" for figure in figures):
        raise typer.Exit(1)


def _say(console: Console, began: float, part: str, text: str) -> None:
    console.print(f"[dim]{time.monotonic() - began:5.0f} s  {part}: {text}[/]")


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(128 + number)


if __name__ == "__main__":
    typer.run(main)
