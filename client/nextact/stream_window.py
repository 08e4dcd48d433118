"""The window of a stream: which messages wait, which are under way, and what must be sent again.

Knows no transport, no threads and no clock: the clients call it under their own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

METADATA_KEY = "nextact-window"
_PREPARED_AHEAD = 2  # messages built while the window is full, so that the next leaves as soon as there is room

M = TypeVar("M")


class UnexpectedAcknowledgement(Exception):
    """The server acknowledged another message than the oldest under way."""


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """How much may be under way: messages, and bytes of messages."""

    max_messages: int = 16
    max_bytes: int = 64 * 1024 * 1024

    @classmethod
    def from_metadata(cls, metadata: Iterable[tuple[str, str | bytes]] | None) -> WindowLimits:
        """Reads `nextact-window` ("messages=16,bytes=67108864"). What is absent or unreadable has its default."""
        limits = {"messages": cls().max_messages, "bytes": cls().max_bytes}
        text = next((value for key, value in metadata or () if key == METADATA_KEY), "")
        for part in str(text).split(","):
            name, _, number = part.strip().partition("=")
            if name in limits and number.isdecimal() and int(number) > 0:
                limits[name] = int(number)
        return cls(limits["messages"], limits["bytes"])


UNANNOUNCED = WindowLimits(max_messages=1)
"""Until the server has announced its window: one message fits into every window, and saves a round trip."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[M]):
    number: int
    size: int
    message: M


class StreamWindow(Generic[M]):
    """Messages from first numbering to acknowledgement, in order, across connections.

    A message is prepared (numbered, not sent), then under way (sent on this connection, not acknowledged), then gone.
    Losing the connection makes all that was under way prepared again, under the same numbers. A message larger than
    the whole window goes alone.
    """

    def __init__(self) -> None:
        self._limits = UNANNOUNCED
        self._prepared: deque[_Entry[M]] = deque()
        self._under_way: deque[_Entry[M]] = deque()
        self._bytes_under_way = 0
        self._last_number = 0
        self._complete = False

    @property
    def unacknowledged(self) -> int:
        """How many messages are prepared or under way."""
        return len(self._prepared) + len(self._under_way)

    @property
    def wants_more(self) -> bool:
        """Whether the source should be asked for its next message."""
        return not self._complete and len(self._prepared) < _PREPARED_AHEAD

    @property
    def can_send(self) -> bool:
        """Whether the next message may leave now."""
        if not self._prepared:
            return False
        if not self._under_way:
            return True
        room = self._limits.max_bytes - self._bytes_under_way
        return len(self._under_way) < self._limits.max_messages and self._prepared[0].size <= room

    @property
    def all_sent(self) -> bool:
        """Whether everything there is was sent on this connection."""
        return self._complete and not self._prepared

    @property
    def done(self) -> bool:
        """Whether everything there is was acknowledged."""
        return self._complete and self.unacknowledged == 0

    def add(self, message: M, size: int) -> int:
        """Takes the source's next message of `size` bytes and returns its number, from 1."""
        if self._complete:
            raise ValueError("a message after the last one")
        self._last_number += 1
        self._prepared.append(_Entry(self._last_number, size, message))
        return self._last_number

    def complete(self) -> None:
        """Says that the source has no more."""
        self._complete = True

    def announce(self, limits: WindowLimits) -> None:
        """Sets the window that the server announced on this connection."""
        self._limits = limits

    def send(self) -> M:
        """Returns the next message to send; it is under way from now on. Only while `can_send`."""
        if not self.can_send:
            raise ValueError("the window has no room")
        entry = self._prepared.popleft()
        self._under_way.append(entry)
        self._bytes_under_way += entry.size
        return entry.message

    def acknowledge(self, number: int) -> M:
        """Returns the message of that number, which is no more the window's concern.

        Raises:
            UnexpectedAcknowledgement: it is not the oldest under way.
        """
        if not self._under_way or self._under_way[0].number != number:
            expected = f"message {self._under_way[0].number}" if self._under_way else "none: nothing is under way"
            raise UnexpectedAcknowledgement(f"the server acknowledged message {number}, expected {expected}")
        entry = self._under_way.popleft()
        self._bytes_under_way -= entry.size
        return entry.message

    def lose(self) -> None:
        """Says that the connection is gone: all that was under way is to be sent again, before anything else."""
        self._prepared.extendleft(reversed(self._under_way))
        self._under_way.clear()
        self._bytes_under_way = 0
        self._limits = UNANNOUNCED
