"""From a configuration to arrays: which events are whose, and what each part of them is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from nextact_server.training import jdata, movielens, splits
from nextact_server.training.config import TrainingConfig
from nextact_server.training.content import ContentStore
from nextact_server.training.data_config import EventData, JData, MovieLensData
from nextact_server.training.datasets import DataError, Dataset, load_events
from nextact_server.training.history import runs
from nextact_server.training.sequence_files import load_sequences
from nextact_server.training.sequences import (
    ABSENT,
    Bool,
    Int64,
    Sequences,
    build_catalogue,
    encode,
    first_rows,
    numbers,
)
from nextact_server.training.task import Task


@dataclass(frozen=True, slots=True)
class Judged:
    """Events of which those of user u from row `first[u]` on, int64[U], are foretold; all before is history.

    With `wanted`, bool[n], only those of them. With `offered`, bool[C], no other items of the catalogue are ranked.
    """

    sequences: Sequences
    first: Int64
    wanted: Bool | None = None
    offered: Bool | None = None

    @property
    def rows(self) -> Int64:
        """The events that are foretold, ascending."""
        rows, _ = runs(self.first, self.sequences.starts[1:])
        return rows if self.wanted is None else rows[self.wanted[rows]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run reads.

    `train` has nothing of what `held_out` is judged on; `first_fit`, which the epochs are chosen with, is that part of
    it which has nothing of what `validation` is judged on either. They are one object where they are the same. Nothing
    of `excluded_users` is in either.
    """

    dataset: Dataset
    task: Task
    train: Sequences
    first_fit: Sequences
    validation: Judged | None
    held_out: Judged | None
    excluded_users: tuple[str, ...]
    cold: Bool | None = None
    """[C] the items of the catalogue that were kept apart from training; None where the split keeps none apart."""


def load_dataset(config: TrainingConfig, base: Path) -> Dataset:
    """Read the data a configuration names, paths being relative to `base`. Raises DataError."""
    data = config.data

    def at(path: Path | None) -> Path | None:
        return None if path is None else base / path

    if isinstance(data, MovieLensData):
        return movielens.load(base / data.folder)
    if isinstance(data, JData):
        return jdata.load(base / data.folder)
    if isinstance(data, EventData):
        files = [base / file for file in data.files]
        events = load_events(files, at(data.items), name=data.name, licence=data.licence)
        return replace(events, uses_time=data.uses_time, uses_actions=data.uses_actions)
    return load_sequences(
        base / data.file,
        titles=at(data.titles),
        attributes=at(data.attributes),
        targets=at(data.targets),
        unseen_items=data.unseen_items,
        name=data.name,
        licence=data.licence,
    )


def prepare(config: TrainingConfig, dataset: Dataset, store: ContentStore, *, fold: int = 0) -> Prepared:
    """Encode the events and split them; `fold` says which part of a split into folds is judged.

    What excluded users alone said or did shapes neither vocabulary nor texts of the rest. Raises DataError if nobody is
    left to train on.
    """
    events, is_target = _with_targets(dataset)
    heads = first_rows(events)
    catalogue = build_catalogue(dataset, store)
    starts = np.append(heads, events.height)
    item = numbers(events["item_id"], catalogue.ids, ABSENT)
    rows = splits.Rows(tuple(events["user_id"].gather(heads)), starts, is_target, item)
    try:
        split = splits.split(config.split, rows, fold)
    except ValueError as error:
        raise DataError(f"{dataset.name}: {error}") from error
    actions, targets = _actions(config, dataset, events.filter(pl.Series(split.train)))
    if not config.fit.use_content:
        catalogue = replace(catalogue, has_content=np.zeros_like(catalogue.has_content))

    def encoded(events: pl.DataFrame) -> Sequences:
        return encode(events, catalogue, store, actions=actions, item_targets=targets, uses_time=dataset.uses_time)

    everything = encoded(events)
    if split.cold is None:
        train, cold = everything.part(split.train), None
    else:  # events are missing in the middle, so the gaps are others
        train = encoded(events.filter(pl.Series(split.train)))
        cold = np.isin(np.arange(len(catalogue.ids)), split.cold)
    return Prepared(
        dataset=dataset,
        task=Task(catalogue, actions, config.exclude_seen, dataset.uses_time, dataset.uses_actions),
        train=train,
        first_fit=train if np.array_equal(split.first_fit, split.train) else everything.part(split.first_fit),
        validation=_judged(everything, split.validation),
        held_out=_judged(everything, split.held_out),
        excluded_users=split.excluded_users,
        cold=cold,
    )


def _with_targets(dataset: Dataset) -> tuple[pl.DataFrame, Bool]:
    """Return the events with what came after them, and bool[n]: which rows came after."""
    if dataset.targets is None:
        return dataset.events, np.zeros(dataset.events.height, dtype=np.bool_)
    tables = (dataset.events, dataset.targets)
    marked = pl.concat(
        table.with_columns(after=pl.lit(after)) for table, after in zip(tables, (False, True), strict=True)
    )
    marked = marked.sort("user_id", "anonymous", "after", maintain_order=True)
    return marked.drop("after"), marked["after"].to_numpy()


def _judged(everything: Sequences, shown: splits.Shown | None) -> Judged | None:
    if shown is None:
        return None
    row = np.append(0, np.cumsum(shown.rows))
    there = np.bincount(everything.user[shown.rows], minlength=len(everything.users)) > 0
    wanted = None if shown.wanted is None else shown.wanted[shown.rows]
    return Judged(everything.part(shown.rows), row[shown.first[there]], wanted)


def _actions(
    config: TrainingConfig, dataset: Dataset, train: pl.DataFrame
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the actions to know and those whose items are foretold; None: all items are."""
    data = config.data
    if not dataset.uses_actions:
        return (), None
    if isinstance(data, MovieLensData):
        return movielens.ACTIONS, movielens.RATING_ACTIONS
    if isinstance(data, JData):
        return jdata.ACTIONS, None
    occurring = train["action"].value_counts().sort(["count", "action"], descending=[True, False])
    assert isinstance(data, EventData)
    return data.actions or tuple(occurring["action"]), data.item_targets or data.actions or tuple(occurring["action"])
