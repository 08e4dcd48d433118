"""`nextact stream`: a file of events through StreamEvents, with progress and a summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from nextact.channel import StreamRetry
from nextact.cli import output
from nextact.cli.options import DEFAULT_SERVER, Json, Server
from nextact.sync_client import Client
from nextact.types import EventStatus, StreamAck

if TYPE_CHECKING:
    import pyarrow as pa

    from nextact.cli.event_files import EventFile

_SHOWN_FAILURES = 5
_MAX_BATCH = 10_000


@dataclass(slots=True)
class Summary:
    """What became of a file, as far as it was acknowledged. `failures` are the first few, by row of the file."""

    messages: int = 0
    events: int = 0
    accepted: int = 0
    duplicates: int = 0
    late: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0
    events_per_s: float = 0.0

    def add(self, acknowledgement: StreamAck, first_row: int, seconds: float) -> None:
        """Counts one acknowledgement, whose message starts at `first_row` of the file."""
        self.messages += 1
        self.events += acknowledgement.events
        self.accepted += acknowledgement.accepted
        self.duplicates += acknowledgement.duplicates
        for failure in acknowledgement.failures:
            if failure.status is EventStatus.LATE:
                self.late += 1
                continue
            self.refused += 1
            self.reasons[f"{failure.status} {failure.field}".strip()] += 1
            if len(self.failures) < _SHOWN_FAILURES:
                self.failures.append(
                    {
                        "row": first_row + failure.index,
                        "status": str(failure.status),
                        "field": failure.field,
                        "reason": failure.reason,
                    }
                )
        self.seconds = seconds
        self.events_per_s = self.events / seconds if seconds else 0.0


class _Source:
    """The pieces of a file, as they are sent, and where each one lies in it."""

    def __init__(self, file: EventFile) -> None:
        self._pieces = file.pieces
        self.total = file.total
        self.first_rows: list[int] = []
        self.positions: list[int] = []

    def __iter__(self) -> Iterator[pa.Table]:
        row = 0
        for piece in self._pieces:
            self.first_rows.append(row)
            self.positions.append(piece.position)
            row += piece.table.num_rows
            yield piece.table


def stream(
    file: Annotated[str, typer.Argument(help="Parquet, CSV, JSON lines or Arrow IPC; - is JSON lines on stdin.")],
    format: Annotated[str, typer.Option(help="parquet, csv, jsonl or arrow (default: by the file's name).")] = "",
    batch_size: Annotated[int, typer.Option(min=1, max=_MAX_BATCH, help="Events per message.")] = 1000,
    id_prefix: Annotated[
        str,
        typer.Option(
            help="Events without message_id get PREFIX-ROW, so that the same file sent again counts once "
            "(default: random ids)."
        ),
    ] = "",
    drop: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Leave a column out; repeatable.")] = None,
    time_unit: Annotated[str, typer.Option(help="What whole numbers in time columns count: s, ms, us or ns.")] = "us",
    assume_utc: Annotated[bool, typer.Option("--assume-utc", help="Read times without a zone as UTC.")] = False,
    attempts: Annotated[
        int, typer.Option(min=0, help="How often to connect again after the last acknowledgement.")
    ] = StreamRetry().attempts,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Send a file of events. Exits with 1 if any was refused."""
    # pyarrow takes a quarter of a second to import; only this command needs it.
    from nextact.cli.event_files import Format, Reading, TimeUnit, open_events

    try:
        reading = Reading(batch_size, TimeUnit(time_unit), assume_utc, tuple(drop or ()))
        file_format = Format(format) if format else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    opened = open_events(file, file_format, reading)
    source, summary = _Source(opened), Summary()
    try:
        with _progress() as progress, Client(server, sleep=partial(_pause, progress)) as client:
            acknowledgements = client.stream(source, id_prefix=id_prefix, retry=StreamRetry(attempts=attempts))
            _follow(acknowledgements, source, summary, progress)
    finally:
        if json:
            output.print_json(summary)
        else:
            _print(summary)
    if summary.refused:
        raise typer.Exit(1)


def _follow(acknowledgements: Iterable[StreamAck], source: _Source, summary: Summary, progress: Progress) -> None:
    task = progress.add_task("", total=source.total, rate="")
    start = time.monotonic()
    for acknowledgement in acknowledgements:
        first_row = source.first_rows[acknowledgement.batch] + acknowledgement.offset
        summary.add(acknowledgement, first_row, time.monotonic() - start)
        progress.update(
            task,
            completed=source.positions[acknowledgement.batch],
            rate=f"{summary.events:,} events, {summary.events_per_s:,.0f}/s",
        )


def _pause(progress: Progress, seconds: float) -> None:
    progress.console.print(f"not connected; trying again in {seconds:.1f} s")
    time.sleep(seconds)


def _progress() -> Progress:
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    # Drawn on a terminal only, and beside the output.
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _print(summary: Summary) -> None:
    print(
        f"{summary.events:,} events in {summary.messages:,} messages: {summary.accepted:,} accepted "
        f"({summary.late:,} late), {summary.duplicates:,} duplicates, {summary.refused:,} refused; "
        f"{summary.seconds:.1f} s, {summary.events_per_s:,.0f} events/s"
    )
    if summary.failures:
        counted = ", ".join(f"{reason}: {count:,}" for reason, count in summary.reasons.most_common())
        rows = [(f["row"], f["status"], f["field"], f["reason"]) for f in summary.failures]
        output.print_table(f"Refused ({counted})", ("row", "status", "field", "reason"), rows)
