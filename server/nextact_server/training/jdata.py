"""JD.com's micro-behaviours: who viewed, ordered, followed or commented on which product, to the second.

A line of train.csv is one event. Its `index` is its action_time in seconds since 1970, which says that the times are
UTC, and `sessionId` numbers visits; neither is used. Lines that are equal in everything are kept, as two events. The
names of the action types are those of JD's earlier data sets; nothing in the files confirms them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from nextact_server.training.datasets import DataError, Dataset, fingerprint, in_order

FILES: Final = ("train.csv", "item_attributes.tsv", "entities.tsv")
ACTIONS: Final = ("view", "order", "follow", "comment")
"""What types 1 to 4 are taken to mean."""

RELATIONS: Final = ("brand", "shop", "category", "year")
"""What relations 1 to 4 of item_attributes.tsv lead to."""

LICENCE: Final = "JD.com: for research"

_ITEM: Final = "item"
_TRAIN: Final = ("action_time", "user_id", "sku_id", "type")
_ATTRIBUTES: Final = ("head", "tail", "relation")
_ENTITIES: Final = ("entity", "id", "type")
_TIME: Final = "%Y-%m-%d %H:%M:%S"


def load(folder: Path) -> Dataset:
    """Read train.csv, item_attributes.tsv and entities.tsv of a folder.

    Every product of entities.tsv is an item, met or not; brand, shop, category and year are its attributes, named by
    the entity, as "brand:13174". Raises DataError naming the file and, where one is to blame, the line.
    """
    paths = [folder / name for name in FILES]
    sha256 = fingerprint(paths)
    train = _read(paths[0], _TRAIN, ",")
    relations = _read(paths[1], _ATTRIBUTES, "\t")
    entities = _read(paths[2], _ENTITIES, "\t")
    items = entities.filter(pl.col("type") == _ITEM)["entity"]
    return Dataset(
        name="JData micro-behaviours",
        events=_events(paths[0], train),
        items=dict.fromkeys(items.to_list(), ""),
        sha256=sha256,
        licence=LICENCE,
        attributes=_attributes(paths[1], relations, entities),
    )


def _read(path: Path, columns: Sequence[str], separator: str) -> pl.DataFrame:
    """Read columns as text; numbers here are names."""
    try:
        table = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
        there = table.collect_schema().names()
        if missing := [name for name in columns if name not in there]:
            raise DataError(f"{path}: column {missing[0]!r} is missing; it has {there}")
        return table.select(columns).collect()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _events(path: Path, train: pl.DataFrame) -> pl.DataFrame:
    if train.is_empty():
        raise DataError(f"{path}: there is no event")
    events = train.select(
        user_id=pl.col("user_id"),
        anonymous=pl.lit(False),
        action=_named("type", ACTIONS),
        item_id=pl.col("sku_id"),
        event_time=pl.col("action_time").str.to_datetime(_TIME, time_zone="UTC", time_unit="us", strict=False),
        text=pl.lit(None, dtype=pl.String),
    )
    made = {"user_id": "user_id", "sku_id": "item_id", "type": "action", "action_time": "event_time"}
    for column, name in made.items():
        _require(path, train[column], events[name])
    return in_order(events)


def _attributes(path: Path, relations: pl.DataFrame, entities: pl.DataFrame) -> pl.DataFrame:
    name_of = entities.select("id", "entity").unique("id", keep="first", maintain_order=True)
    joined = relations.join(name_of, left_on="head", right_on="id", how="left", maintain_order="left")
    joined = joined.join(name_of, left_on="tail", right_on="id", how="left", maintain_order="left", suffix="_tail")
    made = joined.select(head="entity", tail="entity_tail", relation=_named("relation", RELATIONS))
    for column in _ATTRIBUTES:
        _require(path, relations[column], made[column])
    named = made.select(item_id="head", attribute=pl.concat_str("relation", "tail", separator=":"))
    return named.group_by("item_id", "attribute", maintain_order=True).agg(count=pl.len().cast(pl.Int64))


def _named(column: str, names: Sequence[str]) -> pl.Expr:
    """Return the names of the numbers in a column, which count from 1; null where it has another."""
    numbers = {str(number): name for number, name in enumerate(names, start=1)}
    return pl.col(column).replace_strict(numbers, default=None, return_dtype=pl.String)


def _require(path: Path, column: pl.Series, made: pl.Series) -> None:
    """Refuse a row of which nothing could be made; line 1 of the file is its header."""
    bad = made.is_null().arg_true()
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{path}, line {row + 2}: column {column.name!r}: {column[row]!r} is not allowed ({len(bad)} such)"
        )
