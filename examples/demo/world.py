"""What the demo serves: MovieLens users that the model never saw, its movies, and 81 photos of groceries."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from nextact import Item
from nextact_server.training.config import TrainingConfig, load_config
from nextact_server.training.content import ContentStore, Vectors
from nextact_server.training.data_config import UserSplit
from nextact_server.training.datasets import Dataset
from nextact_server.training.prepare import Prepared, load_dataset, prepare
from nextact_server.training.sequences import users_in

_YEAR = re.compile(r"\((\d{4})\)\s*$")


@dataclass(frozen=True, slots=True)
class Moment:
    """One event of a held-out user; `row` is its row in `World.data.held_out.sequences`."""

    row: int
    user: str
    action: str
    item_id: str
    text: str
    time: datetime


@dataclass(frozen=True, slots=True)
class World:
    """Everything the demo needs to know.

    `history` are the held-out users' earlier events as a table in the contract's columns, in order of time, and
    `before` the last of each user's; `live` holds each user's later events, oldest first.
    """

    data: Prepared
    names: Mapping[str, str]
    movies: Sequence[Item]
    groceries: Sequence[Item]
    history: pl.DataFrame
    before: pl.DataFrame
    live: Mapping[str, Sequence[Moment]]


def build_world(examples: Path, scratch: Path, users: int | None) -> World:
    """Reads the data. `users` limits how many held-out users act (None: all); `scratch` is an empty directory.

    The split, the order of events and the texts of the items are those of training.
    """
    recipe = examples / "movielens" / "train.toml"
    config = load_config(recipe)
    groceries, grocery_names = read_groceries(examples / "grocery")
    dataset = load_dataset(config, recipe.parent)
    dataset, chosen = _limited(dataset, config, users)
    # The photos are rankable too when the server ranks, so they are when the baselines do.
    everything = replace(dataset, items=dataset.items | {item.item_id: item.text for item in groceries})
    data = prepare(config, everything, _no_vectors(scratch))
    assert data.held_out is not None
    events = dataset.events.filter(pl.col("user_id").is_in(chosen)).with_row_index("row")
    first = dict(zip(data.held_out.sequences.users, data.held_out.first.tolist(), strict=True))
    begin = pl.col("user_id").replace_strict(first, return_dtype=pl.Int64)
    past = events.filter(pl.col("row") < begin - 1)
    before = events.filter(pl.col("row") == begin - 1)
    movies, names = read_movies(examples / "movielens" / "movies.csv", dataset.items)
    return World(
        data=data,
        names=names | grocery_names,
        movies=movies,
        groceries=groceries,
        history=_columns(past),
        before=_columns(before),
        live=_moments(events.filter(pl.col("row") >= begin)),
    )


def read_movies(path: Path, texts: Mapping[str, str]) -> tuple[list[Item], dict[str, str]]:
    """Returns the movies as items, with year and first genre to filter by, and their titles."""
    items, names = [], {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            attributes = {"kind": "movie", "genre": row["genres"].split("|")[0]}
            if year := _YEAR.search(row["title"]):
                attributes["year"] = year[1]
            items.append(Item(row["movieId"], texts[row["movieId"]], attributes=attributes))
            names[row["movieId"]] = row["title"].strip()
    return items, names


def read_groceries(folder: Path) -> tuple[list[Item], dict[str, str]]:
    """Returns the groceries as items, each with its description and its photo, and their names."""
    items, names = [], {}
    for picture in sorted(folder.rglob("*_Iconic.jpg")):
        name = picture.name.removesuffix("_Iconic.jpg")
        text = picture.with_name(f"{name}_Description.txt").read_text(encoding="utf-8").strip()
        group = picture.relative_to(folder).parts[1]
        item = Item(f"grocery-{name}", text, picture.read_bytes(), {"kind": "grocery", "group": group})
        items.append(item)
        names[item.item_id] = name.replace("-", " ")
    return items, names


def _limited(dataset: Dataset, config: TrainingConfig, users: int | None) -> tuple[Dataset, list[str]]:
    assert isinstance(config.split, UserSplit)
    held_out = users_in(dataset.events, config.split.excluded, config.split.modulus)
    chosen = held_out[:users]
    left_out = set(held_out) - set(chosen)
    return replace(dataset, events=dataset.events.filter(~pl.col("user_id").is_in(left_out))), chosen


def _no_vectors(scratch: Path) -> ContentStore:
    # Baselines count; the vectors of the contents are the server's affair.
    def load() -> object:
        def encode(texts: Sequence[str]) -> Vectors:
            return np.zeros((len(texts), 1), np.float32)

        return encode

    return ContentStore(scratch / "none.npz", load, dim=1, encoder="none")  # type: ignore[arg-type]


def _columns(events: pl.DataFrame) -> pl.DataFrame:
    return events.sort("event_time", maintain_order=True).select("user_id", "action", "item_id", "event_time", "text")


def _moments(events: pl.DataFrame) -> dict[str, list[Moment]]:
    columns = ("row", "user_id", "action", "item_id", "text", "event_time")
    live: dict[str, list[Moment]] = {}
    for row, user, action, item_id, text, time in events.select(columns).iter_rows():
        live.setdefault(user, []).append(Moment(row, user, action, item_id or "", text or "", time))
    return live
