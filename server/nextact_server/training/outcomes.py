"""What several candidates foretold of the same events, and what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nextact_server.training.history import owners
from nextact_server.training.metrics import Float64
from nextact_server.training.sequences import Int64, Sequences


@dataclass(frozen=True, slots=True)
class Events:
    """Judged events: each one's `user`, how many came `before` it, and its `gap_us`, -1 if unknown; int64[n] all."""

    user: Int64
    before: Int64
    gap_us: Int64

    @classmethod
    def of(cls, sequences: Sequences, rows: Int64) -> Events:
        """Look up the given rows."""
        user = owners(sequences, rows)
        return cls(user, rows - sequences.starts[user], sequences.gap_us[rows])

    @classmethod
    def joined(cls, parts: Sequence[Events]) -> Events:
        """Put folds together; their users are different ones."""
        most = 1 + max((int(part.user.max(initial=0)) for part in parts), default=0)
        user = np.concatenate([number * most + part.user for number, part in enumerate(parts)])
        before, gap_us = ([getattr(part, name) for part in parts] for name in ("before", "gap_us"))
        return cls(user, np.concatenate(before), np.concatenate(gap_us))


@dataclass(frozen=True, slots=True)
class ItemOutcomes:
    """The `rank` int64[n] of each event's item, by candidate."""

    events: Events
    rank: Mapping[str, Int64]

    @classmethod
    def joined(cls, parts: Sequence[ItemOutcomes]) -> ItemOutcomes:
        """Put folds with the same candidates together."""
        rank = {name: np.concatenate([part.rank[name] for part in parts]) for name in parts[0].rank}
        return cls(Events.joined([part.events for part in parts]), rank)


@dataclass(frozen=True, slots=True)
class ActionOutcomes:
    """Which `action` int64[n] came, and by candidate the log probabilities `log` float64[n, A].

    `weighed` int64[n] is what each candidate decided for with weights that were fitted on training events; it is empty
    where there were none to fit on.
    """

    events: Events
    action: Int64
    log: Mapping[str, Float64]
    weighed: Mapping[str, Int64]

    @classmethod
    def joined(cls, parts: Sequence[ActionOutcomes]) -> ActionOutcomes:
        """Put folds with the same candidates together."""
        return cls(
            Events.joined([part.events for part in parts]),
            np.concatenate([part.action for part in parts]),
            {name: np.concatenate([part.log[name] for part in parts]) for name in parts[0].log},
            {name: np.concatenate([part.weighed[name] for part in parts]) for name in parts[0].weighed},
        )
