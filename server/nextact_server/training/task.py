"""What is to be learned."""

from __future__ import annotations

from dataclasses import dataclass

from nextact_server.training.sequences import Catalogue


@dataclass(frozen=True, slots=True)
class Task:
    """A catalogue to rank, actions to foretell, and how both are judged: the same for every run on the same data."""

    catalogue: Catalogue
    actions: tuple[str, ...]
    exclude_seen: bool
    judged_part: float
