"""From a configuration to arrays: which events are whose, and what each part of the users is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nextact_server.training import movielens
from nextact_server.training.config import EventData, MovieLensData, TrainingConfig
from nextact_server.training.content import ContentStore
from nextact_server.training.datasets import DataError, Dataset, load_events
from nextact_server.training.sequences import Sequences, build_catalogue, encode, users_in
from nextact_server.training.task import Task


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run reads. `held_out` are the events of `excluded_users`, of which `train` has none.

    `train` holds all other users, `first_fit` those of them that are not in `validation`.
    """

    dataset: Dataset
    task: Task
    train: Sequences
    first_fit: Sequences
    validation: Sequences | None
    held_out: Sequences | None
    excluded_users: tuple[str, ...]


def load_dataset(config: TrainingConfig, base: Path) -> Dataset:
    """Read the data a configuration names, paths being relative to `base`. Raises DataError."""
    data = config.data
    if isinstance(data, MovieLensData):
        return movielens.load(base / data.folder)
    items = base / data.items if data.items else None
    return load_events([base / file for file in data.files], items, name=data.name, licence=data.licence)


def prepare(config: TrainingConfig, dataset: Dataset, store: ContentStore) -> Prepared:
    """Split the users and encode their events.

    The texts of excluded users are encoded for their evaluation only. Raises DataError if nobody is left to train on.
    """
    split = config.split
    excluded = users_in(dataset.events, split.excluded, split.modulus)
    validating = users_in(dataset.events, split.validation, split.modulus)
    user = pl.col("user_id")
    parts = {
        "train": dataset.events.filter(~user.is_in(excluded)),
        "first_fit": dataset.events.filter(~user.is_in(excluded + validating)),
        "validation": dataset.events.filter(user.is_in(validating)),
        "held_out": dataset.events.filter(user.is_in(excluded)),
    }
    if parts["first_fit"].is_empty():
        raise DataError(
            f"{dataset.name}: {dataset.events['user_id'].n_unique()} users, and all of them fall into split.excluded "
            f"{list(split.excluded)} or split.validation {list(split.validation)} of modulus {split.modulus}"
        )
    actions, targets = _actions(config, parts["train"])
    catalogue = build_catalogue(dataset, store)
    encoded = {
        name: None if part.is_empty() else encode(part, catalogue, store, actions=actions, item_targets=targets)
        for name, part in parts.items()
    }
    train, first_fit = encoded["train"], encoded["first_fit"]
    assert train is not None
    assert first_fit is not None
    return Prepared(
        dataset=dataset,
        task=Task(catalogue, actions, config.exclude_seen, split.judged_part),
        train=train,
        first_fit=first_fit,
        validation=encoded["validation"],
        held_out=encoded["held_out"],
        excluded_users=tuple(excluded),
    )


def _actions(config: TrainingConfig, train: pl.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if not isinstance(config.data, EventData):
        return movielens.ACTIONS, movielens.RATING_ACTIONS
    occurring = train["action"].value_counts().sort(["count", "action"], descending=[True, False])
    actions = config.data.actions or tuple(occurring["action"])
    return actions, config.data.item_targets or actions
