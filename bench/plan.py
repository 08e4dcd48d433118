"""How much a run measures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all parts are told.

    `rounds`: alternations of each comparison; `effort`: scales how much a round does, 1 in a full run; `say`: shows
    what is going on.
    """

    repository: Path
    rounds: int
    effort: float
    say: Callable[[str], None]

    @property
    def is_quick(self) -> bool:
        """Whether only what has a target is measured."""
        return self.effort < 1

    def size(self, full: int, least: int = 1) -> int:
        """A count scaled by the effort."""
        return max(least, round(full * self.effort))
