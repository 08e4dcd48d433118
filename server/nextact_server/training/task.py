"""What is to be learned."""

from __future__ import annotations

from dataclasses import dataclass

from nextact_server.training.sequences import Catalogue


@dataclass(frozen=True, slots=True)
class Task:
    """A catalogue to rank and actions to foretell: the same for every run on the same data.

    `actions` is empty where the data has none. Without `uses_time` the times of the sequences mean nothing, without
    `uses_actions` their actions do. With `exclude_seen` an item comes once, so those seen are not offered again.
    """

    catalogue: Catalogue
    actions: tuple[str, ...]
    exclude_seen: bool
    uses_time: bool
    uses_actions: bool
