"""What the database knows of each user beside the events: a row of fixed size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextact_server.storage.seam import NO_TIME

FACTS = np.dtype(
    [
        ("events_seen", "<i8"),
        ("last_time_us", "<i8"),
        ("events", "<i8"),
        ("first_number", "<i8"),
        ("last_number", "<i8"),
        ("remembered", "<i8"),
        ("remembered_from", "<i8"),
        ("dropped", "<i8"),
    ]
)
"""`events_seen`: applied, ever. `last_time_us`: newest effective time. `events`: held now. `first_number` and
`last_number`: of the oldest and the newest of them. `remembered`: message ids held, the first of them that of event
`remembered_from`. `dropped`: events that retention took."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One user's row, see `FACTS`."""

    events_seen: int
    last_time_us: int
    events: int
    first_number: int
    last_number: int
    remembered: int
    remembered_from: int
    dropped: int

    def to_bytes(self) -> bytes:
        """As the database has it."""
        return np.array([tuple(getattr(self, name) for name in FACTS.fields or ())], FACTS).tobytes()


def facts_from_bytes(raw: bytes | None) -> Facts | None:
    """One row."""
    return None if raw is None else Facts(*np.frombuffer(raw, FACTS)[0].tolist())


_NONE: NDArray[Any] = np.zeros(1, FACTS)
_NONE["last_time_us"] = NO_TIME
_NONE["last_number"] = -1
_NONE_BYTES = _NONE.tobytes()


def facts_of(rows: Sequence[bytes | None]) -> NDArray[Any]:
    """Rows as an array of `FACTS`; where there is none, events_seen and events are 0 and last_number is -1."""
    return np.frombuffer(b"".join([row or _NONE_BYTES for row in rows]), FACTS)
