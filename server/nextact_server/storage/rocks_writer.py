"""From commit groups to durable segments that are visible."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from nextact_server.storage.group_checks import check_group
from nextact_server.storage.rocks_database import MESSAGES, SEGMENTS, Batch, Database
from nextact_server.storage.rocks_erasure import ErasureLog
from nextact_server.storage.rocks_keys import StoreKeys
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.rocks_past import Pasts
from nextact_server.storage.rocks_recovery import apply
from nextact_server.storage.rocks_segments import (
    Forgotten,
    Segment,
    is_mergeable,
    segment_key,
    segment_of,
    segment_to_bytes,
)
from nextact_server.storage.seam import CommitGroup, InvalidGroupError

_MOST_VETTED = 1 << 17


class SegmentWriter:
    """Checks groups, writes them as segments, and lays them over the database. One thread writes."""

    def __init__(
        self,
        database: Database,
        overlay: Overlay,
        pasts: Pasts,
        keys: StoreKeys,
        erasures: ErasureLog,
        write: Callable[[Database, Batch, bool], None],
        *,
        sync: bool,
        compress: bool,
    ) -> None:
        self._database, self._overlay, self._pasts, self._keys = database, overlay, pasts, keys
        self._erasures = erasures
        self._write = write
        self._sync = sync
        self._compress = compress
        self._last_sequence = -(1 << 63)
        self._lock = threading.Lock()
        self._vetted: set[bytes] = set()
        self.erasing = threading.Lock()
        """Held while an erasure is between the log and the database."""
        self.dimension = 0
        """Length of the content vectors, 0 before the first one came."""

    def vetting(self) -> Callable[[list[bytes]], None]:
        """Begins a look-up of messages in the database; call the result with those that are not in it.

        They are not looked up again when they are committed, unless some of them became durable meanwhile.
        """
        compactions = self._overlay.compactions

        def are_new(messages: list[bytes]) -> None:
            with self._lock:
                if len(self._vetted) > _MOST_VETTED:
                    self._vetted.clear()
                if compactions == self._overlay.compactions and not self._overlay.knows_any(messages):
                    self._vetted.update(messages)

        return are_new

    def write(self, groups: Sequence[CommitGroup]) -> tuple[int, Exception | None]:
        """Makes groups durable and visible; returns how many, from the first, and what is wrong with the next one.

        A group that erases users comes last.

        Raises StoreError when nothing of them may have become durable.
        """
        good, refusal = self._checked(groups)
        segments = list(self._segments(groups[:good], merge=True))
        if self._recorded(segments):
            segments = list(self._segments(groups[:good], merge=False))
            good = len(self._fresh_ones(segments))
            segments = segments[:good]
            refusal = InvalidGroupError(
                "events.message_key holds a message that is recorded already; ask message_status first"
            )
        if good:
            self._make_durable(segments)
            self._last_sequence = groups[good - 1].sequence
        return good, refusal

    def _checked(self, groups: Sequence[CommitGroup]) -> tuple[int, Exception | None]:
        """How many groups, from the first, fit what is stored, and what is wrong with the next one."""
        sequence, dimension = self._last_sequence, self.dimension
        for at, group in enumerate(groups):
            try:
                check_group(group, sequence, dimension)
            except InvalidGroupError as error:
                return at, error
            sequence = group.sequence
            dimension = dimension or _dimension(group)
        self.dimension = dimension
        return len(groups), None

    def _segments(self, groups: Sequence[CommitGroup], *, merge: bool) -> Iterator[Segment]:
        first = self._overlay.next_number
        for mergeable, some in groupby(groups, is_mergeable):
            together = list(some)
            for part in [together] if mergeable and merge else [[group] for group in together]:
                segment = segment_of(part, first, self._keys)
                yield segment
                first = segment.stop

    def _recorded(self, segments: Sequence[Segment]) -> bool:
        """Whether a message of a segment is recorded already, or twice in them."""
        messages = [message for segment in segments for message in segment.messages]
        return len(set(messages)) < len(messages) or self._any_known(messages)

    def _fresh_ones(self, segments: Sequence[Segment]) -> list[Segment]:
        """The segments before the first one that records a message again."""
        known: set[bytes] = set()
        for at, segment in enumerate(segments):
            if not known.isdisjoint(segment.messages) or self._any_known(segment.messages):
                return list(segments[:at])
            known.update(segment.messages)
        return list(segments)

    def _any_known(self, messages: list[bytes]) -> bool:
        unsure = messages
        if self._overlay.knows_any(messages):
            outcomes = self._overlay.outcomes(messages)
            if max(outcomes) > 0:
                return True
            unsure = [message for message, outcome in zip(messages, outcomes, strict=True) if outcome < 0]
        with self._lock:
            if self._vetted.issuperset(unsure):
                return False
        return any(raw is not None for raw in self._database.get_all(MESSAGES, unsure))

    def forget(self, users: Sequence[Forgotten]) -> None:
        """Erases users who are in the log of erasures already. No groups may be written meanwhile."""
        if users:
            self._make_durable([Segment(self._overlay.next_number, forgotten=tuple(users))], logged=True)

    def _make_durable(self, segments: Sequence[Segment], *, logged: bool = False) -> None:
        batch = self._database.batch()
        for segment in segments:
            batch.put(SEGMENTS, segment_key(segment.first), segment_to_bytes(segment, compress=self._compress))
        forgotten = [one for segment in segments for one in segment.forgotten]
        with self.erasing:
            if forgotten and not logged:
                self._erasures.append(forgotten, time.time_ns() // 1000)
            self._write(self._database, batch, self._sync)
        for segment in segments:
            apply(segment, self._overlay, self._pasts)
            with self._lock:
                self._vetted.difference_update(segment.messages)


def _dimension(group: CommitGroup) -> int:
    vectors = [*group.content.values(), *(item.vector for item in group.items if item.vector is not None)]
    return len(vectors[0]) if vectors else 0
