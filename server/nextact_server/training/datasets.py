"""Recorded events as a table, from files in the contract's columns, each user's in the order the server sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

TIE_RULE: Final = "equal times of a user are ordered by sha256 of 'user,item', then by action and text"

COLUMNS: Final = ("user_id", "anonymous", "action", "item_id", "event_time", "text")
"""Columns of `Dataset.events`; `anonymous` says that user_id holds an anonymous id. item_id and text may be null."""

_TIME: Final = pl.Datetime("us", "UTC")


class DataError(ValueError):
    """Events that cannot be trained on; the message names the file, the column and, where one is to blame, the row."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Events in order (see `in_order`), the text of each item of the catalogue, and where they came from."""

    name: str
    events: pl.DataFrame
    items: dict[str, str]
    sha256: str
    licence: str


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events user by user, each user's by time, ties as TIE_RULE says.

    File order must not decide, because files are often sorted by item, and a model would learn that.
    """
    pairs = zip(events["user_id"], events["item_id"], strict=True)
    ties = [hashlib.sha256(f"{user},{item or ''}".encode()).digest() for user, item in pairs]
    keys = ("user_id", "anonymous", "event_time", "tie", "action", "text")
    with_tie = events.with_columns(pl.Series("tie", ties, pl.Binary))
    return with_tie.sort(keys, maintain_order=True).select(COLUMNS)


def load_events(files: Sequence[Path], items: Path | None = None, *, name: str, licence: str) -> Dataset:
    """Read events from Parquet, CSV or JSONL files whose columns are named as the fields of the contract's Event.

    Required are `user_id` or `anonymous_id`, `action` and `event_time` (a timestamp, an ISO 8601 text or epoch
    seconds); `item_id` and `text` are used where present, all else is ignored. `items`, in the same formats, has
    `item_id` and `text`. Raises DataError naming file, column and row.
    """
    if not files:
        raise DataError("data.files is empty; name at least one file of events")
    digest = hashlib.sha256()
    tables = []
    for path in files:
        tables.append(_checked(path, _read(path)))
        digest.update(path.read_bytes())
    catalogue: dict[str, str] = {}
    if items is not None:
        catalogue = _read_items(items)
        digest.update(items.read_bytes())
    return Dataset(name, in_order(pl.concat(tables)), catalogue, digest.hexdigest(), licence)


def _read(path: Path) -> pl.DataFrame:
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        ".parquet": pl.read_parquet,
        ".csv": partial(pl.read_csv, infer_schema_length=None),
        ".jsonl": partial(pl.read_ndjson, infer_schema_length=None),
    }
    ending = path.suffix.lower()
    if ending not in readers:
        raise DataError(f"{path}: ending {path.suffix!r} is not one of {', '.join(readers)}")
    try:
        return readers[ending](path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read as {ending[1:]}: {error}") from error


def _checked(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    if "user_id" not in table.columns and "anonymous_id" not in table.columns:
        raise DataError(f"{path}: column 'user_id' (or 'anonymous_id') is missing; it has {table.columns}")
    user, visitor = (_text(path, table, name) for name in ("user_id", "anonymous_id"))
    known = user.fill_null("") != ""
    who = user.zip_with(known, visitor).alias("user_id")
    _require(path, "user_id", who.fill_null("") != "", who)
    action = _text(path, table, "action", required=True)
    _require(path, "action", action.fill_null("") != "", action)
    return pl.DataFrame(
        {
            "user_id": who,
            "anonymous": ~known,
            "action": action,
            "item_id": _empty_as_null(_text(path, table, "item_id")),
            "event_time": _times(path, table),
            "text": _empty_as_null(_text(path, table, "text")),
        }
    ).select(COLUMNS)


def _text(path: Path, table: pl.DataFrame, name: str, *, required: bool = False) -> pl.Series:
    if name not in table.columns:
        if required:
            raise DataError(f"{path}: column {name!r} is missing; it has {table.columns}")
        return pl.Series(name, [None] * table.height, dtype=pl.String)
    column = table[name]
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise DataError(f"{path}: column {name!r} is {column.dtype}; it must be text or whole numbers")
    return column.cast(pl.String)


def _times(path: Path, table: pl.DataFrame) -> pl.Series:
    name = "event_time"
    if name not in table.columns:
        raise DataError(f"{path}: column {name!r} is missing; it has {table.columns}")
    column = table[name]
    if isinstance(column.dtype, pl.Datetime):
        times = column.dt.replace_time_zone("UTC") if column.dtype.time_zone is None else column
    elif column.dtype == pl.String:
        times = column.str.to_datetime(time_zone="UTC", time_unit="us", strict=False)
    elif column.dtype.is_numeric():
        times = (column.cast(pl.Float64) * 1e6).round().cast(pl.Int64, strict=False).cast(_TIME)
    else:
        raise DataError(f"{path}: column {name!r} is {column.dtype}; it must be a timestamp, ISO 8601 or epoch seconds")
    _require(path, name, times.is_not_null(), column)
    return times.cast(_TIME)


def _read_items(path: Path) -> dict[str, str]:
    table = _read(path)
    ids = _text(path, table, "item_id", required=True)
    _require(path, "item_id", ids.fill_null("") != "", ids)
    return dict(zip(ids.to_list(), _text(path, table, "text").fill_null("").to_list(), strict=True))


def _empty_as_null(column: pl.Series) -> pl.Series:
    return column.set(column == "", None)


def _require(path: Path, name: str, good: pl.Series, column: pl.Series) -> None:
    bad = (~good).arg_true()
    if len(bad):
        row = int(bad[0])
        raise DataError(f"{path}: column {name!r}, row {row + 1}: {column[row]!r} is not allowed ({len(bad)} such)")
