"""From a generation to the rows of each user: what the compactor writes.

Everything but the facts of the users is written first, in several batches, and is not seen yet; the last batch brings
the facts and removes the segments. A crash in between leaves the segments, and doing it all again writes the same.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.rocks_database import (
    HISTORY,
    ITEMS,
    MESSAGES,
    META,
    SEGMENTS,
    SUPPRESSED,
    USERS,
    Batch,
    Database,
    behind,
)
from nextact_server.storage.rocks_facts import FACTS, facts_of
from nextact_server.storage.rocks_generation import NEVER, Generation
from nextact_server.storage.rocks_items import item_from_bytes, item_to_bytes
from nextact_server.storage.rocks_keys import sliced
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.rocks_past import history_key
from nextact_server.storage.rocks_records import Records, from_bytes, pieces
from nextact_server.storage.rocks_references import References
from nextact_server.storage.rocks_schema import DIMENSION, NEXT_NUMBER, PURGE, number_to_bytes
from nextact_server.storage.rocks_segments import segment_key
from nextact_server.storage.rocks_states import States
from nextact_server.storage.runs import Runs, runs_of
from nextact_server.storage.seam import APPLIED_BIT

EVENTS_PER_ROW = 128
"""Most events of a user in one row of the history."""
_ROWS_PER_BATCH = 256
_OUTCOMES = [bytes([outcome]) for outcome in range(256)]


@dataclass(frozen=True, slots=True)
class Window:
    """How long message ids are remembered: for the larger of a time and a number per user."""

    time_us: int
    per_user: int


class Compaction:
    """Moves generations into one database."""

    def __init__(
        self, database: Database, overlay: Overlay, states: States, references: References, window: Window
    ) -> None:
        self._database = database
        self._overlay = overlay
        self._states = states
        self._references = references
        self._window = window
        self.turn = threading.Lock()
        """Held while rows of users change."""

    def run(self, generation: Generation, breathe: Callable[[], None] = lambda: None) -> None:
        """Moves the oldest generation, which grows no more.

        `breathe` is called between batches; it may wait, or raise to stop: then it is all done again another time.
        """
        with self.turn:
            for batch in self._steps(generation):
                self._database.write(batch)
                breathe()
            self._overlay.drop(generation)
            self._references.drop_loose()

    def _steps(self, generation: Generation) -> Iterator[Batch]:
        database = self._database
        if generation.erased:
            yield _erase(generation, database, self._states, self._references)
        records = self._overlay.records(generation)
        order, users, runs = _by_user(generation, records)
        records = records.take(order)
        facts = facts_of(database.get_all(USERS, users)).copy()
        yield from _write_history(database, records, users, runs)
        yield from _write_messages(database, records)
        yield from _write_content(database, self._references, generation, records, users, runs)
        yield from _write_items(database, self._references, generation)
        last = database.batch()
        for user in generation.suppressed:
            last.put(SUPPRESSED, user, b"")
        if users:
            _count(facts, records, runs)
            for at in np.flatnonzero(facts["remembered"] > self._window.per_user).tolist():
                yield from _forget_messages(database, users[at], facts[at : at + 1], self._window)
            rows = facts.tobytes()
            last.put_all(USERS, users, (rows[at : at + FACTS.itemsize] for at in range(0, len(rows), FACTS.itemsize)))
        if generation.content:
            last.put(META, DIMENSION, number_to_bytes(len(next(iter(generation.content.values())))))
        last.put(META, NEXT_NUMBER, number_to_bytes(generation.stop))
        last.delete_range(SEGMENTS, segment_key(generation.base), segment_key(generation.stop))
        yield last


def _by_user(generation: Generation, records: Records) -> tuple[NDArray[np.int64], list[bytes], Runs]:
    """The order that gathers events by user and sorts users by key, the users, and each one's run in that order."""
    keys = records.rows["user"].byteswap()
    if generation.erased:
        gone = np.array([generation.erased.get(user, NEVER) for user in sliced(records.rows["user"])], np.int64)
        alive = np.flatnonzero(records.rows["number"] >= gone)
    else:
        alive = np.arange(len(records))
    if not len(alive):
        empty = np.zeros(0, np.int64)
        return empty, [], Runs(empty, empty, empty, empty)
    order = alive[np.lexsort((keys[alive, 1], keys[alive, 0]))]
    ordered = records.rows["user"][order]
    begins = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    runs = runs_of(np.cumsum(begins) - 1)
    return order, sliced(ordered[runs.starts]), runs


def _write_history(database: Database, records: Records, users: list[bytes], runs: Runs) -> Iterator[Batch]:
    if not users:
        return
    parts = -(-runs.lengths // EVENTS_PER_ROW)
    owner = np.repeat(np.arange(len(users)), parts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = runs.starts[owner] + within * EVENTS_PER_ROW
    stops = np.minimum(starts + EVENTS_PER_ROW, runs.starts[owner] + runs.lengths[owner])
    numbers = records.rows["number"][starts]
    owners = [users[at] for at in owner.tolist()]
    keys = list(map(history_key, owners, numbers.tolist()))
    rows = pieces(records, starts, stops)
    for at in range(0, len(keys), _ROWS_PER_BATCH):
        batch = database.batch()
        here = keys[at : at + _ROWS_PER_BATCH]
        batch.put_all(HISTORY, here, islice(rows, len(here)))
        yield batch


def _write_messages(database: Database, records: Records) -> Iterator[Batch]:
    rows = records.rows
    keys = rows["message"].byteswap()
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # RocksDB takes sorted keys twice as fast
    messages = sliced(rows["message"][order])
    codes = (rows["status"] | np.where(rows["applied"], APPLIED_BIT, 0).astype(np.int8))[order].tolist()
    outcomes = [_OUTCOMES[code] for code in codes]
    for at in range(0, len(messages), _ROWS_PER_BATCH):
        batch = database.batch()
        batch.put_all(MESSAGES, messages[at : at + _ROWS_PER_BATCH], outcomes[at : at + _ROWS_PER_BATCH])
        yield batch


def _write_content(
    database: Database,
    references: References,
    generation: Generation,
    records: Records,
    users: list[bytes],
    runs: Runs,
) -> Iterator[Batch]:
    """References of the events, and the vectors of all that is referred to."""
    batch = database.batch()
    referred = {item.content_hash for item in generation.items.values() if item is not None}
    rows = np.flatnonzero(records.rows["content_hash"].any(axis=1))
    owner = np.repeat(np.arange(len(users)), runs.lengths)[rows]
    hashes = sliced(np.ascontiguousarray(records.rows["content_hash"][rows]).view(np.uint64))
    for at in range(0, len(rows), _ROWS_PER_BATCH):
        here = slice(at, at + _ROWS_PER_BATCH)
        references.add_users(batch, hashes[here], [users[one] for one in owner[here].tolist()])
        yield batch
        batch = database.batch()
    referred.update(hashes)
    for content_hash, vector in generation.content.items():
        references.put(batch, content_hash, vector, referred=content_hash in referred)
        if len(batch) >= _ROWS_PER_BATCH:
            yield batch
            batch = database.batch()
    yield batch


def _write_items(database: Database, references: References, generation: Generation) -> Iterator[Batch]:
    """Items as they are at the end of the generation, and their references."""
    names = list(generation.items)
    before = database.get_all(ITEMS, [name.encode() for name in names])
    for at in range(0, len(names), _ROWS_PER_BATCH):
        batch = database.batch()
        for name, old in zip(names[at : at + _ROWS_PER_BATCH], before[at : at + _ROWS_PER_BATCH], strict=True):
            item = generation.items[name]
            held = None if old is None else item_from_bytes(old).content_hash
            wanted = None if item is None else item.content_hash
            if held is not None and held != wanted:
                references.release_item(batch, held, name)
            if wanted is not None:
                references.add_item(batch, wanted, name)
            if item is None:
                batch.delete(ITEMS, name.encode())
            else:
                batch.put(ITEMS, name.encode(), item_to_bytes(item))
        yield batch


def _erase(generation: Generation, database: Database, states: States, references: References) -> Batch:
    """Removes all that the database holds of the erased users. One batch: what is to be removed is read from it."""
    batch = database.batch()
    for message, outcome in generation.message_ids.items():
        if not outcome:
            batch.delete(MESSAGES, message)
    for user, below in generation.erased.items():
        for _, row in database.scan(HISTORY, user):
            hashes = from_bytes(row).rows["content_hash"]
            references.release_user(batch, sorted({one.tobytes() for one in hashes[hashes.any(axis=1)]}), user)
        batch.delete_range(HISTORY, user, behind(user))
        batch.delete(USERS, user)
        states.forget(batch, user, below)
        batch.put(META, PURGE + user, number_to_bytes(time.time_ns() // 1000))
    return batch


def _count(facts: NDArray[Any], records: Records, runs: Runs) -> None:
    """Adds the users' events to their facts."""
    rows = records.rows
    numbers = rows["number"]
    fresh = facts["events"] == 0
    facts["first_number"] = np.where(fresh, numbers[runs.starts], facts["first_number"])
    idle = facts["remembered"] == 0
    facts["remembered_from"] = np.where(idle, numbers[runs.starts], facts["remembered_from"])
    facts["remembered"] += runs.lengths
    facts["events"] += runs.lengths
    facts["last_number"] = numbers[runs.ends]
    facts["events_seen"] += np.add.reduceat(rows["applied"].astype(np.int64), runs.starts)
    newest = np.maximum.reduceat(rows["effective_time_us"], runs.starts)
    facts["last_time_us"] = np.maximum(facts["last_time_us"], newest)


def _forget_messages(database: Database, user: bytes, facts: NDArray[Any], window: Window) -> Iterator[Batch]:
    """Forgets a user's oldest message ids, as far as they are behind both the number and the time of the window.

    The clock is the newest `received_us` of the user, so that ids are never forgotten too early.
    """
    iterator = database.iterator(HISTORY)
    iterator.seek_for_prev(history_key(user, int(facts["last_number"][0])))
    horizon = int(from_bytes(iterator.value()).rows["received_us"][-1]) - window.time_us
    iterator.seek_for_prev(history_key(user, int(facts["remembered_from"][0])))
    surplus = int(facts["remembered"][0]) - window.per_user
    batch = database.batch()
    while surplus > 0 and iterator.valid() and iterator.key().startswith(user):
        rows = from_bytes(iterator.value()).rows
        rows = rows[rows["number"] >= facts["remembered_from"][0]]
        young = np.flatnonzero(rows["received_us"] >= horizon)
        count = min(surplus, int(young[0]) if len(young) else len(rows))
        for message in sliced(rows["message"][:count]):
            batch.delete(MESSAGES, message)
        surplus -= count
        facts["remembered"] -= count
        if count < len(rows):
            facts["remembered_from"] = rows["number"][count]
            break
        facts["remembered_from"] = rows["number"][-1] + 1
        iterator.next()
    yield batch
