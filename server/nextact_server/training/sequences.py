"""Events as the arrays a sequence model reads: one row per event, one run of rows per user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from nextact_server.features.time import time_features
from nextact_server.sequence.model import FIRST_ACTION, UNKNOWN_ACTION
from nextact_server.training.content import ContentStore, Vectors
from nextact_server.training.datasets import Dataset

Int64: TypeAlias = npt.NDArray[np.int64]
Bool: TypeAlias = npt.NDArray[np.bool_]

ABSENT: Final = -1
"""No item, or no text, in an array of row numbers."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All rankable items, by id. `content` float32[C, content_dim] means something where `has_content` bool[C]."""

    ids: tuple[str, ...]
    content: Vectors
    has_content: Bool


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events of U users; the rows of user u are `starts[u]` up to `starts[u + 1]`, oldest first.

    `item` int64[n] is a row of the catalogue or ABSENT, `action` int64[n] as the model numbers them, `time`
    float32[n, TIME_DIM], `text` int64[n] a row of `texts` float32[t, content_dim] or ABSENT. `item_target` bool[n]
    marks the events whose item is to be foretold.
    """

    users: tuple[str, ...]
    starts: Int64
    item: Int64
    action: Int64
    time: npt.NDArray[np.float32]
    text: Int64
    texts: Vectors
    item_target: Bool

    @property
    def lengths(self) -> Int64:
        """Events of each user, int64[U]."""
        return np.diff(self.starts)


def residue(user: str, modulus: int) -> int:
    """Return sha256(user) mod `modulus`: the part of the users that this one belongs to, now and for ever."""
    return int(hashlib.sha256(user.encode()).hexdigest(), 16) % modulus


def users_in(events: pl.DataFrame, residues: Iterable[int], modulus: int) -> list[str]:
    """Return, sorted, the users whose residue is one of `residues`."""
    wanted = set(residues)
    return sorted(user for user in events["user_id"].unique() if residue(user, modulus) in wanted)


def build_catalogue(dataset: Dataset, store: ContentStore) -> Catalogue:
    """Gather the items of the data's catalogue and of its events; an item without text has no content."""
    ids = tuple(sorted(set(dataset.items).union(dataset.events["item_id"].drop_nulls())))
    has = np.array([bool(dataset.items.get(item)) for item in ids], dtype=np.bool_)
    known = store.vectors([dataset.items[item] for item, there in zip(ids, has, strict=True) if there])
    content = np.zeros((len(ids), known.shape[1]), dtype=np.float32)
    content[has] = known
    return Catalogue(ids, content, has)


def encode(
    events: pl.DataFrame,
    catalogue: Catalogue,
    store: ContentStore,
    *,
    actions: Sequence[str],
    item_targets: Sequence[str],
) -> Sequences:
    """Turn events, ordered as `datasets.in_order` leaves them, into arrays.

    `item_targets` are the actions whose items count as next items.
    """
    item_row = {item: row for row, item in enumerate(catalogue.ids)}
    action_index = {action: FIRST_ACTION + i for i, action in enumerate(actions)}
    texts = sorted(events["text"].drop_nulls().unique())
    text_row = {text: row for row, text in enumerate(texts)}

    same_user = (events["user_id"] == events["user_id"].shift()) & (events["anonymous"] == events["anonymous"].shift())
    first = ~same_user.fill_null(False).to_numpy()
    heads = np.flatnonzero(first)
    time = events["event_time"].dt.epoch("us").to_numpy().astype(np.int64)
    gap = np.diff(time, prepend=0)
    gap[heads] = -1
    item = _rows(events["item_id"], item_row)
    return Sequences(
        users=tuple(events["user_id"].gather(heads)),
        starts=np.append(heads, events.height).astype(np.int64),
        item=item,
        action=np.array([action_index.get(action, UNKNOWN_ACTION) for action in events["action"]], dtype=np.int64),
        time=time_features(time, gap),
        text=_rows(events["text"], text_row),
        texts=store.vectors(texts),
        item_target=events["action"].is_in(list(item_targets)).to_numpy() & (item != ABSENT),
    )


def _rows(values: pl.Series, row: dict[str, int]) -> Int64:
    return np.array([ABSENT if value is None else row[value] for value in values], dtype=np.int64)
