"""The model beside each baseline: figures with intervals, paired differences, and the same for parts of the events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from nextact_server.sequence.card import Estimate, Slice
from nextact_server.training.action_metrics import (
    ACCURACY,
    LOG_LOSS,
    LOWER_IS_BETTER,
    MACRO_F1,
    WEIGHED_F1,
    action_figures,
)
from nextact_server.training.bootstrap import Resampling, estimate
from nextact_server.training.metrics import Float64, Int64, item_metrics
from nextact_server.training.outcomes import ActionOutcomes, Events, ItemOutcomes
from nextact_server.training.slices import slices

MODEL: Final = "model"

Figures: TypeAlias = Mapping[str, Float64]
"""Of a candidate, by metric: the figure over all events, then over each draw of users, float64[1 + samples]."""

_DECIDING: Final = ("HR@10", "NDCG@10", LOG_LOSS, ACCURACY, MACRO_F1, WEIGHED_F1)
"""Metrics by which the best baseline is named."""

_SLICED: Final = ("HR@10", "NDCG@10", LOG_LOSS, ACCURACY)


@dataclass(frozen=True, slots=True)
class Compared:
    """Parts of an `Evaluation`, named as there."""

    metrics: dict[str, Estimate]
    baselines: dict[str, dict[str, Estimate]]
    gains: dict[str, Estimate]
    best: dict[str, str]
    slices: dict[str, dict[str, Slice]]


def compare_items(outcomes: ItemOutcomes) -> Compared:
    """Compare by where each candidate ranked what came."""

    def figures(resampling: Resampling, chosen: Int64, who: str) -> Figures:
        values = item_metrics(outcomes.rank[who][chosen])
        totals = resampling.totals(np.column_stack((np.ones(len(chosen)), *values.values())))
        return {name: totals[:, at] / totals[:, 0] for at, name in enumerate(values, start=1)}

    return _compared(outcomes.events, list(outcomes.rank), figures, "next item", "NDCG@10")


def compare_actions(outcomes: ActionOutcomes) -> Compared:
    """Compare by the probabilities that each candidate gave to the actions."""

    def figures(resampling: Resampling, chosen: Int64, who: str) -> Figures:
        weighed = outcomes.weighed.get(who)
        return action_figures(
            resampling,
            outcomes.log[who][chosen],
            outcomes.action[chosen],
            None if weighed is None else weighed[chosen],
        )

    return _compared(outcomes.events, list(outcomes.log), figures, "next action", LOG_LOSS)


def _compared(
    events: Events,
    candidates: Sequence[str],
    figures: Callable[[Resampling, Int64, str], Figures],
    what: str,
    by: str,
) -> Compared:
    """Compare the candidates, the model first; of parts of the events, only it and the best `by` a metric."""
    resampling = Resampling(events.user)
    everything = np.arange(len(events.user))
    whole = {who: figures(resampling, everything, who) for who in candidates}
    model, *rivals = candidates
    best = {
        metric: _best({who: whole[who] for who in rivals}, metric) for metric in _DECIDING if metric in whole[model]
    }
    told = (model, best[by if by in best else next(iter(best))])
    shown = [name for name in _SLICED if all(name in whole[who] for who in told)]

    def part(resampling: Resampling, chosen: Int64) -> dict[str, Figures]:
        own = {who: figures(resampling, chosen, who) for who in told}
        return {who: {name: own[who][name] for name in shown} for who in told}

    return Compared(
        metrics=_estimates(whole[model]),
        baselines={who: _estimates(whole[who]) for who in rivals},
        gains={
            f"{metric} over {who}": estimate(_gain(metric, whole[model][metric], theirs))
            for who in rivals
            for metric, theirs in whole[who].items()
            if metric in whole[model]
        },
        best=best,
        slices={f"{what} by {way}": parts for way, parts in slices(events, part).items()},
    )


def _estimates(figures: Figures) -> dict[str, Estimate]:
    return {name: estimate(values) for name, values in figures.items()}


def _gain(metric: str, ours: Float64, theirs: Float64) -> Float64:
    return theirs - ours if metric in LOWER_IS_BETTER else ours - theirs


def _best(rivals: Mapping[str, Figures], metric: str) -> str:
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    return max(rivals, key=lambda who: sign * float(rivals[who][metric][0]))
