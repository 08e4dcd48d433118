"""Whether what a server foretold of a user is what its version foretells offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from nextact_server.sequence.card import ModelCard
from nextact_server.sequence.config import FIRST_ITEM
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.datasets import DataError
from nextact_server.training.history import owners, seen_before
from nextact_server.training.prepare import Judged, Prepared
from nextact_server.training.scoring import ModelScorer, Scores, vocabulary_rows
from nextact_server.training.sequences import Int64, Sequences

TOP: Final = 20
SCORE_TOLERANCE: Final = 1e-4
TIE: Final = 1e-5
"""Items whose scores differ by no more may change places."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server foretold of one user, both best first.

    `top` maps the best `TOP` items to their scores, None for a user without events; `ranked` maps all items to theirs.
    """

    top: Mapping[str, float] | None
    ranked: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far what was served is from the offline scores.

    `gap` is the largest difference of a score, infinite if other items were ranked; `difference` says what disagrees,
    None if nothing does.
    """

    gap: float
    difference: str | None


class Offline:
    """A version's scores of single events, of the items that its server would offer."""

    def __init__(self, model: SequenceModel, card: ModelCard, data: Prepared, sequences: Sequences) -> None:
        """Score the catalogue of `data` for events of `sequences`."""
        vocab = vocabulary_rows(data.task.catalogue, card.items)
        self._scorer = ModelScorer(model, data.task.catalogue, vocab)
        self._unknown = vocab < FIRST_ITEM
        self._exclude_seen = data.task.exclude_seen
        self._sequences = sequences
        self._ids = data.task.catalogue.ids
        self._place = {item: at for at, item in enumerate(self._ids)}

    @property
    def unknown(self) -> int:
        """Items of the catalogue that the version never met, and that nothing is known of: no server offers them."""
        return int(self._unknown.sum())

    def scores(self, row: int) -> Scores:
        """Return the scores before an event, float[C], -inf for items that are not offered."""
        rows = np.array([row], dtype=np.int64)
        removed = self._unknown[None, :]
        if self._exclude_seen:
            removed = removed | seen_before(self._sequences, rows, self._scorer.items)
        scores = self._scorer(self._sequences, rows, removed).scores
        assert scores is not None
        first: Scores = scores[0]
        return first

    def compare(self, row: int, served: Served) -> Agreement:
        """Compare what was served before an event with the offline scores.

        The same items must be ranked, each score must be the same to `SCORE_TOLERANCE`; the top items must be the same
        in the same order, and the event's item must have the same rank, but for ties.
        """
        scores, target = self.scores(row), int(self._sequences.item[row])
        offered = np.isfinite(scores)
        answered = self._places(served.ranked)
        if not np.array_equal(np.sort(answered), np.flatnonzero(offered)):
            return Agreement(np.inf, f"Rank has {len(answered)} items, offline there are {offered.sum()}, or others")
        told = self._of_scores(scores, served.ranked) or self._of_top(scores, served.top)
        if told is None and offered[target]:
            told = self._of_rank(scores, answered, target)
        return Agreement(self._gap(scores, served.ranked), told)

    def _places(self, items: Mapping[str, float]) -> Int64:
        return np.array([self._place.get(item, -1) for item in items], dtype=np.int64)

    def _gap(self, scores: Scores, served: Mapping[str, float]) -> float:
        told = np.array(list(served.values()), dtype=np.float64)
        return float(np.abs(told - scores[self._places(served)]).max()) if len(told) else 0.0

    def _of_scores(self, scores: Scores, served: Mapping[str, float]) -> str | None:
        for item, told in served.items():
            at = self._place[item]
            if not abs(told - scores[at]) <= SCORE_TOLERANCE:
                return f"item {item} has score {told:.6f}, offline {scores[at]:.6f}"
        return None

    def _of_top(self, scores: Scores, top: Mapping[str, float] | None) -> str | None:
        if top is None:
            return None
        best = np.sort(scores[np.isfinite(scores)])[::-1][:TOP]
        places = self._places(top)
        same = len(top) == len(best) and bool((places >= 0).all())
        if not same or (np.abs(scores[places] - best) > TIE).any():
            wanted = [self._ids[at] for at in np.argsort(-scores, kind="stable")[: len(best)]]
            return f"the top items are {', '.join(top)}; offline {', '.join(wanted)}"
        return self._of_scores(scores, top)

    def _of_rank(self, scores: Scores, answered: Int64, target: int) -> str | None:
        rank = int(np.flatnonzero(answered == target)[0])
        better, not_worse = int((scores > scores[target] + TIE).sum()), int((scores >= scores[target] - TIE).sum())
        if better <= rank < not_worse:
            return None
        return f"item {self._ids[target]} has rank {rank}, offline {better} to {not_worse - 1}"


def last_of_each(judged: Judged, most: int | None) -> Int64:
    """Return each user's last judged event that has a next item, ascending; of `most` users at most, spread evenly."""
    rows = judged.rows[judged.sequences.item_target[judged.rows]]
    user = owners(judged.sequences, rows)
    last = rows[np.append(user[1:] != user[:-1], True)] if len(rows) else rows
    if most is None or len(last) <= most:
        return last
    return last[np.linspace(0, len(last) - 1, most).astype(np.int64)]


def check_servable(config_path: Path, data: Prepared, card: ModelCard, sequences: Sequences) -> None:
    """Raise DataError if no server could foretell the same: it says why."""
    has_content = bool(data.task.catalogue.has_content.any())
    if has_content and data.dataset.attributes is not None:
        raise DataError(
            f"{config_path}: the items' content is made of their attributes, and the server makes no content of "
            "attributes: such a version cannot be served with it, and is evaluated offline only"
        )
    if has_content or len(sequences.texts):
        raise DataError(
            f"{config_path}: items or events have texts, which the server encodes by another runtime than training "
            "does; only versions that read ids alone can be compared"
        )
    data.dataset.check_sha256(card.data.sha256, config_path)
    if data.task.exclude_seen != card.exclude_seen_default:
        raise DataError(
            f"{config_path}: exclude_seen is {data.task.exclude_seen}, the version is served with "
            f"{card.exclude_seen_default}"
        )
