"""What may become of an event."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


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


def is_recorded(status: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which events are kept, bool[n]: accepted or late."""
    recorded: NDArray[np.bool_] = (status == Status.ACCEPTED) | (status == Status.LATE)
    return recorded
