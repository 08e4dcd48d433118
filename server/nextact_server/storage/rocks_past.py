"""A user's past, read from the generations and the database as one."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rocksdict import RdictIter

from nextact_server.storage.rocks_database import HISTORY, USERS, Database
from nextact_server.storage.rocks_facts import Facts, facts_from_bytes, facts_of
from nextact_server.storage.rocks_generation import NEVER
from nextact_server.storage.rocks_overlay import Layer, Overlay
from nextact_server.storage.rocks_records import Records, concat, from_many, stacked
from nextact_server.storage.seam import HistoryPage, ReplayRows, UserColumns

Piece = tuple[Records, NDArray[np.int64]]
"""Events and the places in them that are meant, newest first."""
_NUMBER = struct.Struct(">Q")
_FIRST_ROWS, _MOST_ROWS = 8, 128
"""Rows of the database that are read at once: few for a page, more for all."""


def history_key(user: bytes, number: int) -> bytes:
    """Key of the row of a user's events that begins with a number; keys sort like users, then like numbers."""
    return user + _NUMBER.pack(number)


@dataclass(frozen=True, slots=True)
class Past:
    """What counts of a user: the generations' layers, youngest first, and below them what the database has."""

    user: bytes
    layers: list[Layer]
    facts: Facts | None

    @property
    def newest(self) -> int:
        """Number of the newest event, -1 for none."""
        for layer in self.layers:
            if layer.newest >= 0:
                return layer.newest
        return -1 if self.facts is None else self.facts.last_number

    @property
    def events_seen(self) -> int:
        """Events applied, ever."""
        return sum(layer.applied for layer in self.layers) + (self.facts.events_seen if self.facts is not None else 0)


class Pasts:
    """Reads users' pasts. Thread-safe; all of it inside `Database.reading`."""

    def __init__(self, database: Database, overlay: Overlay) -> None:
        self._database = database
        self._overlay = overlay

    def columns(self, users: list[bytes]) -> UserColumns:
        """What is known of many users."""
        layers = self._overlay.columns(users)
        facts = facts_of(self._database.get_all(USERS, users))
        events_seen, last_time_us = np.zeros(len(users), np.int64), facts["last_time_us"].copy()
        last_time_us[:] = np.iinfo(np.int64).min
        has_history = np.zeros(len(users), np.bool_)
        open_still = np.ones(len(users), np.bool_)
        shown = np.ones(len(users), np.bool_)
        for layer in layers:
            open_still &= facts["last_number"] < layer.base
            events_seen += np.where(open_still, layer.added.events_seen, 0)
            last_time_us = np.where(open_still, np.maximum(last_time_us, layer.added.last_time_us), last_time_us)
            has_history |= open_still & layer.added.has_history
            erased = open_still & (layer.erased_at != NEVER)
            shown &= ~erased
            open_still &= ~erased
        events_seen += np.where(shown, facts["events_seen"], 0)
        last_time_us = np.where(shown, np.maximum(last_time_us, facts["last_time_us"]), last_time_us)
        has_history |= shown & (facts["events"] > 0)
        return UserColumns(events_seen, last_time_us, has_history)

    def of(self, user: bytes) -> Past:
        """One user's past as of now."""
        layers = self._overlay.layers(user)
        facts = facts_from_bytes(self._database.get(USERS, user))
        counting = []
        for layer in layers:
            if facts is not None and facts.last_number >= layer.generation.base:
                break  # the database has this generation already, and those before it
            counting.append(layer)
            if layer.erased_at != NEVER:
                facts = None
                break
        return Past(user, counting, facts)

    def walk(self, past: Past, before: int | None = None) -> Iterator[Piece]:
        """Events newest first, all or those before one; none if that one is not an event of the user."""
        layers = past.layers
        if before is not None:
            layers = [layer for layer in layers if layer.generation.base <= before]
            if layers and before < layers[0].generation.stop:
                if not layers[0].generation.holds(past.user, before):
                    return
                yield from _without_first(layers[0].generation.chain(before))
                layers, before = layers[1:], None
            elif layers:
                return
        for layer in layers:
            yield from layer.generation.chain(layer.newest)
        if past.facts is not None:
            yield from self._on_disk(past.user, past.facts, before)

    def _on_disk(self, user: bytes, facts: Facts, before: int | None) -> Iterator[Piece]:
        newest = facts.last_number if before is None else min(before, facts.last_number)
        if newest < facts.first_number:
            return
        iterator = self._database.iterator(HISTORY)
        iterator.seek_for_prev(history_key(user, newest))
        at_once = _FIRST_ROWS
        while raws := _back(iterator, user, at_once):
            records = from_many(raws[::-1])
            numbers = records.rows["number"]
            places = np.flatnonzero((numbers <= newest) & (numbers >= facts.first_number))[::-1]
            if before is not None:
                if not len(places) or numbers[places[0]] != before:
                    return
                places, before = places[1:], None
            yield records, places
            at_once = min(2 * at_once, _MOST_ROWS)
        iterator.status()

    # What the seam asks ---------------------------------------------------------------------------------------------

    def history(self, user: bytes, before: int | None, limit: int) -> HistoryPage:
        """A page of events, newest first."""
        pieces: list[Piece] = []
        wanted = limit + 1
        for records, places in self.walk(self.of(user), before):
            pieces.append((records, places[:wanted]))
            wanted -= len(pieces[-1][1])
            if not wanted:
                break
        more = not wanted
        page = concat([records if _is_whole(records, places) else records.take(places) for records, places in pieces])
        if more:
            page = page.take(np.arange(limit))
        rows = page.rows
        return HistoryPage.of(rows, page.columns(), int(rows["number"][-1]) if more and limit else None)

    def replay(self, user: bytes, after_events_seen: int) -> ReplayRows:
        """The applied events after the first so many, oldest first."""
        past = self.of(user)
        wanted = past.events_seen - after_events_seen
        parts = []
        if wanted > 0:
            for records, places in self.walk(past):
                rows = records.rows[places]
                rows = rows[rows["applied"]][:wanted]
                parts.append(rows)
                wanted -= len(rows)
                if not wanted:
                    break
        rows = stacked(parts)[::-1]
        return ReplayRows(*(rows[name].copy() for name in ReplayRows.__dataclass_fields__))

    def seen_items(self, user: bytes, after: int) -> tuple[NDArray[np.uint64], int]:
        """Keys of the items of the events after a number, and the newest number."""
        past = self.of(user)
        parts = []
        if past.newest > after:
            for records, places in self.walk(past):
                rows = records.rows[places]
                parts.append(rows[(rows["number"] > after) & rows["has_item"]]["item_key"])
                if len(rows) and rows["number"][-1] <= after:
                    break
        keys = np.concatenate(parts) if parts else np.zeros((0, 2), np.uint64)
        return keys, max(past.newest, after)

    def messages(self, user: bytes) -> list[bytes]:
        """Keys on disk of the messages of all events."""
        parts = [records.rows["message"][places].tobytes() for records, places in self.walk(self.of(user))]
        whole = b"".join(parts)
        return [whole[at : at + 16] for at in range(0, len(whole), 16)]


def _back(iterator: RdictIter, prefix: bytes, count: int) -> list[bytes]:
    """Up to so many values of keys with a prefix, going back; the iterator is left at the next one."""
    values: list[bytes] = []
    while len(values) < count and iterator.valid() and iterator.key().startswith(prefix):
        values.append(iterator.value())
        iterator.prev()
    return values


def _is_whole(records: Records, places: NDArray[np.int64]) -> bool:
    return len(records) == len(places) == 1


def _without_first(pieces: Iterator[Piece]) -> Iterator[Piece]:
    records, places = next(pieces)
    yield records, places[1:]
    yield from pieces
