"""What may become of an event."""

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """What became of an event; the numbers are those of the public contract."""

    ACCEPTED = 1
    DUPLICATE = 2
    LATE = 3
    INVALID = 4
    SUPPRESSED = 5
    OVERLOADED = 6


OPEN = 0
"""Stands where a status will stand once the event is applied."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one event was refused: the field, and a reason with the value seen, the limit and the setting."""

    field: str
    reason: str
    status: Status = Status.INVALID
