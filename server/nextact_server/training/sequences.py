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
from nextact_server.features.vectors import unit_rows
from nextact_server.sequence.config import FIRST_ACTION, UNKNOWN_ACTION
from nextact_server.training.attributes import attribute_vectors
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

    `time_us` int64[n] is the event's time in microseconds since 1970 UTC, 0 where the data has no times; `gap_us`
    int64[n] is the time since the user's previous event, never negative, and -1 for a user's first event and where the
    data has no times. `time` is made of both. Where the data has no actions, `action` is UNKNOWN_ACTION throughout.
    """

    users: tuple[str, ...]
    starts: Int64
    item: Int64
    action: Int64
    time: npt.NDArray[np.float32]
    text: Int64
    texts: Vectors
    item_target: Bool
    time_us: Int64
    gap_us: Int64

    @property
    def lengths(self) -> Int64:
        """Events of each user, int64[U]."""
        return np.diff(self.starts)

    @property
    def user(self) -> Int64:
        """Number of the user of each event, int64[n]."""
        return np.repeat(np.arange(len(self.users)), self.lengths)

    def part(self, kept: Bool) -> Sequences:
        """Return the events where `kept` bool[n]; users without any are gone, and so are texts that nobody said.

        Only whole users and ends of users may be left out, since the gaps stay as they are.
        """
        if kept.all():
            return self
        lengths = np.bincount(self.user[kept], minlength=len(self.users))
        there = np.flatnonzero(lengths)
        text = self.text[kept]
        said, row = np.unique(text[text != ABSENT], return_inverse=True)
        text[text != ABSENT] = row
        return Sequences(
            users=tuple(self.users[user] for user in there),
            starts=np.append(0, np.cumsum(lengths[there])),
            item=self.item[kept],
            action=self.action[kept],
            time=self.time[kept],
            text=text,
            texts=self.texts[said],
            item_target=self.item_target[kept],
            time_us=self.time_us[kept],
            gap_us=self.gap_us[kept],
        )


def residue(user: str, modulus: int) -> int:
    """Return sha256(user) mod `modulus`: the part of the users that this one belongs to, now and for ever."""
    return int(hashlib.sha256(user.encode()).hexdigest(), 16) % modulus


def users_in(events: pl.DataFrame, residues: Iterable[int], modulus: int) -> list[str]:
    """Return, sorted, the users whose residue is one of `residues`."""
    wanted = set(residues)
    return sorted(user for user in events["user_id"].unique() if residue(user, modulus) in wanted)


def first_rows(events: pl.DataFrame) -> Int64:
    """Return the row of each user's first event, for events in which each user's are in one run."""
    as_before = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in ("user_id", "anonymous"))
    return np.flatnonzero(~events.select(as_before.fill_null(False)).to_series().to_numpy())


def build_catalogue(dataset: Dataset, store: ContentStore) -> Catalogue:
    """Gather the items of the data's catalogue and of its events.

    An item's content is what its text says, or its attributes, or the middle of both; it may have neither.
    """
    ids = tuple(sorted(set(dataset.items).union(dataset.events["item_id"].drop_nulls().unique())))
    has_text = np.array([bool(dataset.items.get(item)) for item in ids], dtype=np.bool_)
    content = np.zeros((len(ids), store.dim), dtype=np.float32)
    content[has_text] = store.vectors([dataset.items[item] for item, has in zip(ids, has_text, strict=True) if has])
    if dataset.attributes is None:
        return Catalogue(ids, content, has_text)
    described = attribute_vectors(dataset.attributes, ids, store.dim)
    return Catalogue(ids, unit_rows(content + described), has_text | described.any(axis=1))


def encode(
    events: pl.DataFrame,
    catalogue: Catalogue,
    store: ContentStore,
    *,
    actions: Sequence[str],
    item_targets: Sequence[str] | None,
    uses_time: bool = True,
) -> Sequences:
    """Turn events, ordered as `datasets.in_order` leaves them, into arrays.

    `item_targets` are the actions whose items count as next items; None: whatever the action. Without `uses_time` the
    times, which may be null, are ignored.
    """
    heads = first_rows(events)
    time = np.zeros(events.height, dtype=np.int64)
    gap = np.full(events.height, -1, dtype=np.int64)
    if uses_time:
        time[:] = events["event_time"].dt.epoch("us").to_numpy()
        gap[1:] = np.diff(time)
        gap[heads] = -1
    texts = events["text"].drop_nulls().unique().sort()
    item = numbers(events["item_id"], catalogue.ids, ABSENT)
    wanted = (
        np.bool_(True)
        if item_targets is None
        else events["action"].is_in(list(item_targets)).fill_null(False).to_numpy()
    )
    return Sequences(
        users=tuple(events["user_id"].gather(heads)),
        starts=np.append(heads, events.height).astype(np.int64),
        item=item,
        action=FIRST_ACTION + numbers(events["action"], actions, UNKNOWN_ACTION - FIRST_ACTION),
        time=time_features(time, gap),
        text=numbers(events["text"], texts.to_list(), ABSENT),
        texts=store.vectors(texts.to_list()),
        item_target=wanted & (item != ABSENT),
        time_us=time,
        gap_us=gap,
    )


def numbers(values: pl.Series, names: Sequence[str], other: int) -> Int64:
    """Return each value's place among the names, int64[n]; `other` for null and for what is not among them."""
    places = values.cast(pl.Enum(names), strict=False).to_physical().cast(pl.Int64)
    return places.fill_null(other).to_numpy().copy()
