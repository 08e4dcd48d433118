"""Files of events, read a piece at a time into Arrow: Parquet, CSV, JSON lines, Arrow IPC (file and stream)."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from nextact.types import Event

STDIN = "-"
_TIMES = ("event_time", "sent_at")
_COLUMNS = tuple(f.name for f in fields(Event) if f.name != "properties")
_TEXTS = tuple(name for name in _COLUMNS if name not in (*_TIMES, "image"))


class Format(StrEnum):
    """A file format; arrow is both the IPC file and the IPC stream."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    ARROW = "arrow"


class TimeUnit(StrEnum):
    """What a whole number in a time column counts, since 1970-01-01 UTC."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


_SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".arrow": Format.ARROW,
    ".arrows": Format.ARROW,
    ".ipc": Format.ARROW,
    ".feather": Format.ARROW,
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read: events per piece, what times mean, and which columns to leave out."""

    rows: int = 1000
    time_unit: TimeUnit = TimeUnit.US
    assume_utc: bool = False
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Some events, and how far the file has been read with them, in the unit of `EventFile.total`."""

    table: pa.Table
    position: int


@dataclass(frozen=True, slots=True)
class EventFile:
    """A file of events; `total` is its length in rows or bytes, None where nobody knows."""

    total: int | None
    pieces: Iterator[Piece]


def open_events(path: str, file_format: Format | None, reading: Reading) -> EventFile:
    """Opens a file, or JSON lines on stdin for "-".

    Raises:
        ValueError: a format or a column that cannot be sent; also while the pieces are read.
        OSError: the file cannot be read.
    """
    if path == STDIN:
        if file_format not in (None, Format.JSONL):
            raise ValueError(f"stdin is read as jsonl, not as {file_format}")
        return EventFile(None, _json_lines(sys.stdin.buffer, reading))
    kind = file_format or _SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: unknown kind of file; say --format {' | '.join(Format)}")
    opened: EventFile = {
        Format.PARQUET: _parquet,
        Format.CSV: _csv,
        Format.JSONL: _jsonl,
        Format.ARROW: _arrow,
    }[kind](path, reading)
    return opened


def _parquet(path: str, reading: Reading) -> EventFile:
    file = pyarrow.parquet.ParquetFile(path)
    return EventFile(file.metadata.num_rows, _by_rows(file.iter_batches(batch_size=reading.rows), reading))


def _arrow(path: str, reading: Reading) -> EventFile:
    source = pa.memory_map(path)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    if not is_file:
        return EventFile(source.size(), _by_bytes(pa.ipc.open_stream(source), source, reading))
    reader = pa.ipc.open_file(source)
    batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    total = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    return EventFile(total, _by_rows(batches, reading))


def _csv(path: str, reading: Reading) -> EventFile:
    source = Path(path).open("rb")  # noqa: SIM115 - the pieces are read later; their generator closes it
    reader = pyarrow.csv.open_csv(
        source,
        convert_options=pyarrow.csv.ConvertOptions(
            # Ids stay as written ("007"), times are read here, where their zones are looked at.
            column_types={name: pa.string() for name in (*_TEXTS, *_TIMES)},
            strings_can_be_null=True,
        ),
    )
    return EventFile(Path(path).stat().st_size, _by_bytes(reader, source, reading))


def _jsonl(path: str, reading: Reading) -> EventFile:
    return EventFile(Path(path).stat().st_size, _json_lines(Path(path).open("rb"), reading))


def _by_rows(batches: Iterable[pa.RecordBatch], reading: Reading) -> Iterator[Piece]:
    position = 0
    for batch in batches:
        for start in range(0, batch.num_rows, reading.rows):
            part = batch.slice(start, reading.rows)
            position += part.num_rows
            yield Piece(as_events(pa.Table.from_batches([part]), reading), position)


def _by_bytes(batches: Iterable[pa.RecordBatch], source: pa.NativeFile | BinaryIO, reading: Reading) -> Iterator[Piece]:
    with source:
        for batch in batches:
            for start in range(0, batch.num_rows, reading.rows):
                part = batch.slice(start, reading.rows)
                yield Piece(as_events(pa.Table.from_batches([part]), reading), source.tell())


def _json_lines(stream: BinaryIO, reading: Reading) -> Iterator[Piece]:
    position = line = 0
    with stream:
        while lines := list(islice(stream, reading.rows)):
            position += sum(map(len, lines))
            try:
                table = _parse_json(b"".join(lines))
                yield Piece(as_events(table, reading), position)
            except pa.ArrowInvalid as error:
                raise ValueError(f"lines {line + 1} to {line + len(lines)}: {error}") from error
            line += len(lines)


def _parse_json(data: bytes) -> pa.Table:
    texts = [(name, pa.string()) for name in _TEXTS]
    problem: pa.ArrowInvalid | None = None
    for kind in (pa.string(), pa.int64()):  # times are ISO 8601, or whole numbers
        schema = pa.schema([*texts, *((name, kind) for name in _TIMES)])
        options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
        # One block: an object must not be cut in two.
        whole = pyarrow.json.ReadOptions(block_size=len(data) + 1)
        try:
            table = pyarrow.json.read_json(io.BytesIO(data), read_options=whole, parse_options=options)
        except pa.ArrowInvalid as error:
            problem = problem or error
        else:
            empty = [name for name in schema.names if table.column(name).null_count == table.num_rows]
            return table.drop_columns(empty)
    assert problem is not None
    raise problem


def as_events(table: pa.Table, reading: Reading) -> pa.Table:
    """Makes a table of a file one that can be sent: known columns, ids as strings, times with a zone.

    Raises:
        ValueError: a column that no event has, or times whose zone is unknown.
    """
    table = table.drop_columns([name for name in reading.drop if name in table.column_names])
    for name in table.column_names:
        if name not in _COLUMNS:
            raise ValueError(f"column {name!r} is not one of {', '.join(_COLUMNS)}; leave it out with --drop {name}")
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if name in _TIMES:
            columns[name] = _times(name, column, reading)
        elif name in _TEXTS and pa.types.is_integer(column.type):
            columns[name] = pc.cast(column, pa.string())
        else:
            columns[name] = column
    return pa.table(columns)


def _times(name: str, column: Any, reading: Reading) -> Any:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column if kind.tz is not None else _in_utc(name, column, reading)
    if pa.types.is_integer(kind):
        return pc.cast(pc.cast(column, pa.int64()), pa.timestamp(reading.time_unit.value, tz="UTC"))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"column {name!r} is {kind}: times are timestamps, ISO 8601 texts or whole numbers")
    digits: Any = pc.match_substring_regex(column, r"^-?\d+$")
    if pc.all(digits).as_py():
        return _times(name, pc.cast(column, pa.int64()), reading)
    try:
        return pc.cast(column, pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid as error:
        if "zone offset" not in str(error):
            raise
        return _in_utc(name, pc.cast(column, pa.timestamp("us")), reading)


def _in_utc(name: str, column: Any, reading: Reading) -> Any:
    if not reading.assume_utc:
        raise ValueError(f"column {name!r} has times without a zone; --assume-utc reads them as UTC")
    return pc.assume_timezone(column, "UTC")
