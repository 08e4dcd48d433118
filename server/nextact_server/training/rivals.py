"""The baselines of an evaluation, made from training events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nextact_server.training.action_baselines import ActionRival, last_action
from nextact_server.training.baselines import FollowedScorer, PopularityScorer, followed, popularity
from nextact_server.training.classifiers import classifiers
from nextact_server.training.cooccurrence import cooccurrence
from nextact_server.training.item_knn import item_knn
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import Sequences

POPULARITY: Final = "popularity"
MARKOV: Final = "first-order Markov"
COOCCURRENCE: Final = "decayed co-occurrence"
ITEM_KNN: Final = "item-kNN"
LAST_ACTION: Final = "last action repeated"


@dataclass(frozen=True, slots=True)
class ItemRival:
    """A way to rank items, and the parameters that were chosen for it."""

    scorer: Scorer
    settings: Mapping[str, float] = field(default_factory=dict)


def item_rivals(train: Sequences, items: int, exclude_seen: bool, thorough: bool) -> dict[str, ItemRival]:
    """Count on all next-item events of `train`; without `thorough` only what needs no parameters."""
    share = popularity(train, train.item_target, items)
    chain = FollowedScorer(followed(train, train.item_target, items), share)
    rivals = {POPULARITY: ItemRival(PopularityScorer(share)), MARKOV: ItemRival(chain)}
    if thorough:
        rivals[COOCCURRENCE] = ItemRival(*cooccurrence(train, items, exclude_seen=exclude_seen))
        rivals[ITEM_KNN] = ItemRival(*item_knn(train, items, exclude_seen=exclude_seen))
    return rivals


def action_rivals(train: Sequences, actions: int, thorough: bool) -> dict[str, ActionRival]:
    """Learn from all events of `train`; without `thorough` only what needs no parameters.

    Raises MissingClassifiers.
    """
    repeated = {LAST_ACTION: last_action(train, actions)}
    return repeated | classifiers(train, actions) if thorough else repeated
