"""Recorded events as a table, from files in the contract's columns, each user's in the order the server sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

TIE_RULE: Final = "equal times of a user are ordered by sha256 of 'user,item', then by action and text"

COLUMNS: Final = ("user_id", "anonymous", "action", "item_id", "event_time", "text")
"""Columns of `Dataset.events`; `anonymous` says that user_id holds an anonymous id. item_id and text may be null.

So may be action and event_time where the data has none.
"""

TIME: Final = pl.Datetime("us", "UTC")
"""Type of event_time."""

_TEXTS: Final = ("user_id", "anonymous_id", "action", "item_id", "text")
_EVENT_NEEDS: Final = (("user_id", "anonymous_id"), ("action",), ("event_time",))
_ITEM_NEEDS: Final = (("item_id",),)


class DataError(ValueError):
    """Events that cannot be trained on; the message names the file, the column and, where one is to blame, the row."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Events, each user's in one run and in order, the text of each item of the catalogue, and where they came from.

    `attributes`, where items have such, has the columns item_id, attribute and count, all as text but the last.
    `targets` are events that came after the end of the data, like `events`. Without `uses_time` the events have no
    times worth the name, without `uses_actions` no actions. `sha256` is over all files that training reads.
    """

    name: str
    events: pl.DataFrame
    items: dict[str, str]
    sha256: str
    licence: str
    attributes: pl.DataFrame | None = None
    targets: pl.DataFrame | None = None
    uses_time: bool = True
    uses_actions: bool = True

    def check_sha256(self, trained_on: str, config_path: Path) -> None:
        """Raise DataError, naming the configuration, unless a version was trained on these very files."""
        if self.sha256 != trained_on:
            raise DataError(
                f"{config_path}: the data's sha256 is {self.sha256}, not {trained_on} of the version's card"
            )


def in_order(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events user by user, each user's by time, ties as TIE_RULE says.

    File order must not decide, because files are often sorted by item, and a model would learn that.
    """
    moment = ("user_id", "anonymous", "event_time")
    ordered = events.select(COLUMNS).sort(moment, maintain_order=True)
    as_before = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift()) for name in moment)
    as_before = as_before & (pl.int_range(pl.len()) > 0)
    tied = ordered.select(as_before | as_before.shift(-1, fill_value=False)).to_series().arg_true()
    if tied.is_empty():
        return ordered
    pairs = ordered[tied].select("user_id", "item_id").iter_rows()
    ties = [hashlib.sha256(f"{user},{item or ''}".encode()).digest() for user, item in pairs]
    hashed = pl.DataFrame({"row": tied, "tie": ties}, schema={"row": pl.UInt32, "tie": pl.Binary})
    with_tie = ordered.with_row_index("row").join(hashed, on="row", how="left")
    return with_tie.sort((*moment, "tie", "action", "text"), maintain_order=True).select(COLUMNS)


def fingerprint(paths: Iterable[Path]) -> str:
    """Return the sha256 of the files' bytes, one after another. Raises DataError naming one that cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def load_events(files: Sequence[Path], items: Path | None = None, *, name: str, licence: str) -> Dataset:
    """Read events from Parquet, CSV or JSONL files whose columns are named as the fields of the contract's Event.

    Required are `user_id` or `anonymous_id`, `action` and `event_time` (a timestamp, an ISO 8601 text or epoch
    seconds); `item_id` and `text` are used where present, all else is ignored. `items`, in the same formats, has
    `item_id` and `text`. Raises DataError naming file, column and row.
    """
    if not files:
        raise DataError("data.files is empty; name at least one file of events")
    events = in_order(pl.concat([_checked(path, _read(path, _EVENT_NEEDS)) for path in files]))
    if events.is_empty():
        raise DataError(f"{', '.join(map(str, files))}: there is no event")
    catalogue = {} if items is None else _read_items(items)
    return Dataset(name, events, catalogue, fingerprint([*files, *([] if items is None else [items])]), licence)


def _read(path: Path, needs: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Read the columns that are used here; others, images among them, are never loaded.

    Of each of `needs`, which are alternatives, one must be there.
    """
    # Ids are text even where they look like numbers: 007 is not 7.
    text = dict.fromkeys(_TEXTS, pl.String)
    scanners: dict[str, Callable[[Path], pl.LazyFrame]] = {
        ".parquet": partial(pl.scan_parquet, glob=False),
        ".csv": partial(pl.scan_csv, infer_schema_length=None, schema_overrides=text, glob=False),
        ".jsonl": partial(pl.scan_ndjson, infer_schema_length=None),
    }
    ending = path.suffix.lower()
    if ending not in scanners:
        raise DataError(f"{path}: ending {path.suffix!r} is not one of {', '.join(scanners)}")
    try:
        table = scanners[ending](path)
        there = table.collect_schema().names()
        for names in needs:
            if not set(names) & set(there):
                raise DataError(f"{path}: column {' or '.join(map(repr, names))} is missing; it has {there}")
        return table.select([name for name in there if name in (*_TEXTS, "event_time")]).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: cannot be read as {ending[1:]}: {error}") from error


def _checked(path: Path, table: pl.DataFrame) -> pl.DataFrame:
    user, visitor = _text(path, table, "user_id"), _text(path, table, "anonymous_id")
    known = user.fill_null("") != ""
    who = user.zip_with(known, visitor).alias("user_id")
    _require(path, "user_id", who.fill_null("") != "", who)
    action = _text(path, table, "action")
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


def _text(path: Path, table: pl.DataFrame, name: str) -> pl.Series:
    if name not in table.columns:
        return pl.Series(name, [None] * table.height, dtype=pl.String)
    column = table[name]
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise DataError(f"{path}: column {name!r} is {column.dtype}; it must be text or whole numbers")
    return column.cast(pl.String)


def _times(path: Path, table: pl.DataFrame) -> pl.Series:
    name = "event_time"
    column = table[name]
    if isinstance(column.dtype, pl.Datetime):
        times = column.dt.replace_time_zone("UTC") if column.dtype.time_zone is None else column
    elif column.dtype == pl.String:
        times = column.str.to_datetime(time_zone="UTC", time_unit="us", strict=False)
    elif column.dtype.is_numeric():
        times = (column.cast(pl.Float64) * 1e6).round().cast(pl.Int64, strict=False).cast(TIME)
    else:
        raise DataError(f"{path}: column {name!r} is {column.dtype}; it must be a timestamp, ISO 8601 or epoch seconds")
    _require(path, name, times.is_not_null(), column)
    return times.cast(TIME)


def _read_items(path: Path) -> dict[str, str]:
    table = _read(path, _ITEM_NEEDS)
    ids = _text(path, table, "item_id")
    _require(path, "item_id", ids.fill_null("") != "", ids)
    return dict(zip(ids.to_list(), _text(path, table, "text").fill_null("").to_list(), strict=True))


def _empty_as_null(column: pl.Series) -> pl.Series:
    return column.set(column == "", None)


def _require(path: Path, name: str, good: pl.Series, column: pl.Series) -> None:
    bad = (~good).arg_true()
    if len(bad):
        row = int(bad[0])
        raise DataError(f"{path}: column {name!r}, row {row + 1}: {column[row]!r} is not allowed ({len(bad)} such)")
