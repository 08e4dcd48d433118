"""A generation: the segments that are durable but not yet compacted, readable in memory as what they change."""

import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.rocks_keys import sliced
from nextact_server.storage.rocks_records import Records, concat
from nextact_server.storage.rocks_segments import Segment
from nextact_server.storage.runs import runs_of
from nextact_server.storage.seam import APPLIED_BIT, HASH_BYTES, ItemRecord, UserColumns
from nextact_server.storage.user_table import UserTable

NEVER = -1
"""Number of an erasure that did not happen."""


class Generation:
    """Grows by whole segments, never changes what it holds, and is dropped as a whole once it is compacted.

    The caller holds a lock over everything but `chain`, which needs none: what it looks at is not changed once it is
    there. Events are sorted to their users only when a user is asked for: while events stream in for users
    whose state is resident, nobody asks, and many segments are sorted in one go.
    """

    def __init__(self, base: int) -> None:
        self.base = self.stop = base
        self.made_at = time.monotonic()
        self.nbytes = 0
        self.segments = 0
        self.message_ids: dict[bytes, int] = {}
        """Message -> status and `APPLIED_BIT`; 0 for one that is forgotten, whatever lies below."""
        self.content: dict[bytes, NDArray[np.float32]] = {}
        self.referred: set[bytes] = set()
        """Content that events or items of this generation refer to."""
        self.items: dict[str, ItemRecord | None] = {}
        """None: deleted."""
        self.erased: dict[bytes, int] = {}
        """Users erased, and the number below which their events are gone."""
        self.suppressed: set[bytes] = set()
        self._count = 0
        self._slots: dict[bytes, int] = {}
        self._users = UserTable()
        self._unsorted: list[list[Records]] = []
        """Lists of segments' events, the numbers within each list without a gap."""
        self._parts: list[Records] = []
        self._starts: list[int] = []
        self._previous: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        """How many events it holds."""
        return self._count

    def slots(self, users: list[bytes]) -> NDArray[np.int64]:
        """Dense numbers of users in this generation, -1 for those who have no events in it."""
        self._sort()
        return np.array([self._slots.get(user, -1) for user in users], np.int64)

    def columns(self, slots: NDArray[np.int64]) -> UserColumns:
        """What this generation adds for users with events in it, those erased before left out."""
        return self._users.columns(slots)

    def newest(self, user: bytes) -> tuple[int, int]:
        """Number of a user's newest event here (-1: none) and how many were applied."""
        self._sort()
        return self._users.newest(self._slots.get(user, -1))

    def apply(self, segment: Segment, forgotten_messages: Iterable[bytes]) -> None:
        """Takes a segment over; `forgotten_messages` are all that the users whom it erases had before it."""
        self.message_ids.update(dict.fromkeys(forgotten_messages, 0))
        if segment.forgotten:
            self._sort()
        for one in segment.forgotten:
            self.erased[one.user] = segment.first
            if one.user in self._slots:
                self._users.erase(self._slots[one.user])
            if one.suppress:
                self.suppressed.add(one.user)
        if len(segment.records):
            self._record(segment.records, segment.messages)
        self.items.update(dict.fromkeys(segment.deleted_items))
        for item in segment.items:
            self.items[item.item_id] = item
            if item.content_hash is not None:
                self.referred.add(item.content_hash)
                if item.vector is not None:
                    self.content[item.content_hash] = item.vector
        self.content.update(segment.content)
        self.nbytes += segment.records.nbytes + sum(vector.nbytes for vector in segment.content.values())
        self.nbytes += sum(1024 + len(item.text) + len(item.image or b"") for item in segment.items)
        self.segments += 1
        self.stop = segment.stop

    def chain(self, number: int) -> Iterator[tuple[Records, NDArray[np.int64]]]:
        """A user's events from one of them back to the oldest of this generation: newest first, in runs of places."""
        while number >= 0:
            part = bisect_right(self._starts, number) - 1
            start, previous = self._starts[part], self._previous[part]
            places = []
            while number >= start:
                places.append(number - start)
                number = previous.item(number - start)
            yield self._parts[part], np.array(places, np.int64)

    def holds(self, user: bytes, number: int) -> bool:
        """Whether an event is here, is this user's, and was not erased here."""
        self._sort()
        part = bisect_right(self._starts, number) - 1
        if part < 0 or number - self._starts[part] >= len(self._parts[part]):
            return False
        owner = self._parts[part].rows["user"][number - self._starts[part]].tobytes()
        return bool(owner == user) and number >= self.erased.get(user, NEVER)

    def parts(self) -> list[Records]:
        """All events, those of users erased later among them."""
        return [*self._parts, *(records for run in self._unsorted for records in run)]

    def _record(self, records: Records, messages: list[bytes]) -> None:
        rows = records.rows
        run = self._unsorted[-1] if self._unsorted else []
        if not run or run[-1].rows["number"][-1] + 1 != rows["number"][0]:
            run = []
            self._unsorted.append(run)
        run.append(records)
        outcomes = rows["status"] | np.where(rows["applied"], APPLIED_BIT, 0).astype(np.int8)
        self.message_ids.update(zip(messages, outcomes.tolist(), strict=True))
        hashes = rows["content_hash"][rows["content_hash"].any(axis=1)].tobytes()
        self.referred.update(hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES))
        self._count += len(records)

    def _sort(self) -> None:
        unsorted, self._unsorted = self._unsorted, []
        slots = self._slots
        for run in unsorted:
            records = concat(run)
            rows = records.rows
            slot = np.array([slots.setdefault(user, len(slots)) for user in sliced(rows["user"])], np.int64)
            runs = runs_of(slot)
            first = int(rows["number"][0])
            self._starts.append(first)
            self._previous.append(self._users.link(runs, first))
            self._parts.append(records)
            self._users.record(runs, rows["applied"], rows["effective_time_us"], first)
