"""Sequences as recommendation benchmarks give them: a line per user, items in order, no times and no actions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from nextact_server.training.datasets import COLUMNS, TIME, DataError, Dataset, fingerprint
from nextact_server.training.movielens import item_text

ATTRIBUTE_SCHEMA: Final = {"item_id": pl.String, "attribute": pl.String, "count": pl.Int64}
"""Columns of `Dataset.attributes`."""


def load_sequences(
    file: Path,
    *,
    titles: Path | None = None,
    attributes: Path | None = None,
    targets: Path | None = None,
    unseen_items: bool = True,
    name: str,
    licence: str,
) -> Dataset:
    """Read a file of `user item item ...` lines and what is known of the items.

    `titles` has lines of `item::title::genre|genre` in latin-1, `attributes` is a JSON object from item to a list of
    attribute ids; items that only these name belong to the catalogue if `unseen_items`. `targets` has lines of
    `user item`, what came next; it is in no fingerprint, so that a model can be judged on what came after it was made.
    Raises DataError naming the file and the line or the item.
    """
    histories = _histories(file)
    occurring = set(chain.from_iterable(histories.values()))
    texts = {} if titles is None else _titles(titles)
    lists = {} if attributes is None else _attributes(attributes)
    items = dict.fromkeys(lists, "") | texts
    if not unseen_items:
        items = {item: text for item, text in items.items() if item in occurring}
    return Dataset(
        name=name,
        events=_events(dict(sorted(histories.items()))),
        items=items,
        sha256=fingerprint([path for path in (file, titles, attributes) if path is not None]),
        licence=licence,
        attributes=None if attributes is None else attribute_table(lists),
        targets=None if targets is None else _events(_targets(targets, histories, occurring | items.keys())),
        uses_time=False,
        uses_actions=False,
    )


def attribute_table(lists: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return the attributes of each item as rows of item_id, attribute and how often the item's list has it."""
    rows = [(item, attribute, n) for item, ids in lists.items() for attribute, n in Counter(ids).items()]
    return pl.DataFrame(rows, schema=ATTRIBUTE_SCHEMA, orient="row")


def _histories(path: Path) -> dict[str, list[str]]:
    histories: dict[str, list[str]] = {}
    for number, line in _lines(path, "utf-8"):
        user, *items = line.split() or [""]
        if not items:
            raise DataError(f"{path}, line {number}: {line!r} has no items; a line is 'user item item ...'")
        if user in histories:
            raise DataError(f"{path}, line {number}: user {user!r} has a line above already")
        histories[user] = items
    if not histories:
        raise DataError(f"{path}: the file is empty; a line is 'user item item ...'")
    return histories


def _targets(path: Path, histories: Mapping[str, list[str]], items: set[str]) -> dict[str, list[str]]:
    targets: dict[str, list[str]] = {}
    for number, line in _lines(path, "utf-8"):
        where = f"{path}, line {number}"
        if len(parts := line.split()) != 2:
            raise DataError(f"{where}: {line!r} is not 'user item'")
        user, item = parts
        if user in targets:
            raise DataError(f"{where}: user {user!r} has a line above already")
        if user not in histories:
            raise DataError(f"{where}: user {user!r} has no sequence")
        if item not in items:
            raise DataError(f"{where}: item {item!r} occurs in no sequence and is not in the catalogue")
        targets[user] = [item]
    return dict(sorted(targets.items()))


def _titles(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in _lines(path, "latin-1"):
        parts = line.split("::")
        if len(parts) != 3 or not parts[0].strip():
            raise DataError(f"{path}, line {number}: {line!r} is not 'item::title::genre|genre'")
        item, title, genres = (part.strip() for part in parts)
        if item in texts:
            raise DataError(f"{path}, line {number}: item {item!r} has a line above already")
        texts[item] = item_text(title, genres)
    return texts


def _attributes(path: Path) -> dict[str, list[str]]:
    try:
        lists = json.loads(_text(path, "utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(lists, dict):
        raise DataError(f"{path}: is not a JSON object from item to a list of attribute ids")
    for item, ids in lists.items():
        if not isinstance(ids, list) or not all(type(one) in (int, str) for one in ids):
            raise DataError(f"{path}: item {item!r} has {ids!r:.80}, which is no list of attribute ids")
    return {item: [str(one) for one in ids] for item, ids in lists.items()}


def _lines(path: Path, encoding: str) -> list[tuple[int, str]]:
    lines = _text(path, encoding).split("\n")
    if not lines[-1]:
        lines.pop()
    return [(number, line.rstrip("\r")) for number, line in enumerate(lines, start=1)]


def _text(path: Path, encoding: str) -> str:
    try:
        return path.read_text(encoding=encoding)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not {encoding}: {error}") from error


def _events(histories: Mapping[str, list[str]]) -> pl.DataFrame:
    lengths = np.array([len(items) for items in histories.values()], dtype=np.int64)
    users = pl.Series("user_id", list(histories), dtype=pl.String)
    return pl.DataFrame(
        {
            "user_id": users.gather(np.repeat(np.arange(len(users)), lengths)),
            "item_id": pl.Series(list(chain.from_iterable(histories.values())), dtype=pl.String),
        }
    ).select(
        "user_id",
        "item_id",
        anonymous=pl.lit(False),
        action=pl.lit(None, dtype=pl.String),
        event_time=pl.lit(None, dtype=TIME),
        text=pl.lit(None, dtype=pl.String),
    )[list(COLUMNS)]
