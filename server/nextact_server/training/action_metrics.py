"""How well probabilities of the next action were told: by themselves, by what is decided from them, by calibration."""

from __future__ import annotations

from typing import Final

import numpy as np

from nextact_server.sequence.card import Reliability
from nextact_server.training.bootstrap import Resampling
from nextact_server.training.decisions import f1_of
from nextact_server.training.metrics import Float64, Int64

ACCURACY: Final = "next-action accuracy"
LOG_LOSS: Final = "next-action log-loss"
MACRO_F1: Final = "next-action macro-F1"
WEIGHED_F1: Final = "next-action macro-F1, weighed"
BRIER: Final = "next-action Brier"
ECE: Final = "next-action ECE"

LOWER_IS_BETTER: Final = frozenset({LOG_LOSS, BRIER, ECE})
BINS: Final = 15


def action_figures(
    resampling: Resampling, action_log: Float64, action: Int64, weighed: Int64 | None
) -> dict[str, Float64]:
    """Return each figure over all events and over each draw of users, float64[1 + samples].

    `action_log` float64[n, A] are log probabilities, `action` int64[n] what came, `weighed` int64[n] what was decided
    with fitted weights. Log-loss is in nats, and left out where no chance at all was given to what came; Brier is the
    squared distance from what came, 0 to 2; macro-F1 goes over the actions that came. ECE is that of the likeliest
    action in 15 bins of equal mass (Guo et al. 2017; Nguyen and O'Connor 2015); by chance alone it is the higher, the
    fewer the events, in draws of users too.
    """
    rows, actions = action_log.shape
    came = np.eye(actions)[action]
    loss = -action_log[np.arange(rows), action]
    is_finite = bool(np.isfinite(loss).all())
    chances = np.exp(action_log)
    likeliest = action_log.argmax(axis=1)
    place = bins(chances.max(axis=1))
    off = np.zeros((rows, BINS))
    off[np.arange(rows), place] = chances.max(axis=1) - (likeliest == action)
    groups = {
        "mean": np.column_stack(
            (
                np.ones(rows),
                loss if is_finite else np.zeros(rows),
                likeliest == action,
                ((chances - came) ** 2).sum(axis=1),
            )
        ),
        "came": came,
        "off": off,
        **_decisions("plain", likeliest, came),
        **({} if weighed is None else _decisions("weighed", weighed, came)),
    }
    totals = resampling.totals(np.concatenate(list(groups.values()), axis=1))
    ends = np.cumsum([part.shape[1] for part in groups.values()])
    part = dict(zip(groups, np.split(totals, ends[:-1], axis=1), strict=True))
    events, occurring = part["mean"][:, 0], part["came"][0] > 0
    out = {LOG_LOSS: part["mean"][:, 1] / events} if is_finite else {}
    out |= {
        ACCURACY: part["mean"][:, 2] / events,
        BRIER: part["mean"][:, 3] / events,
        ECE: np.abs(part["off"]).sum(axis=1) / events,
        MACRO_F1: f1_of(part["plain hits"], part["came"], part["plain told"], occurring),
    }
    if weighed is not None:
        out[WEIGHED_F1] = f1_of(part["weighed hits"], part["came"], part["weighed told"], occurring)
    return out


def bins(confidence: Float64) -> Int64:
    """Return which of the 15 bins of equal mass each confidence falls into, int64[n], the least confident into 0."""
    place = np.empty(len(confidence), dtype=np.int64)
    place[np.argsort(confidence, kind="stable")] = np.arange(len(confidence)) * BINS // max(1, len(confidence))
    return place


def reliability(action_log: Float64, action: Int64) -> Reliability:
    """Return how often the likeliest action came, bin by bin of its probability."""
    confidence = np.exp(action_log.max(axis=1))
    hit = action_log.argmax(axis=1) == action
    place = bins(confidence)
    events = np.bincount(place, minlength=BINS)
    there = events > 0
    means = [np.bincount(place, weights=of, minlength=BINS)[there] / events[there] for of in (confidence, hit)]
    return Reliability(
        confidence=tuple(means[0].tolist()), came=tuple(means[1].tolist()), events=tuple(events[there].tolist())
    )


def _decisions(name: str, chosen: Int64, came: Float64) -> dict[str, Float64]:
    told = np.eye(came.shape[1])[chosen]
    return {f"{name} told": told, f"{name} hits": told * came}
