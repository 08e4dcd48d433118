"""From probabilities to a decision: weights that make up for rare actions being never the likeliest."""

from __future__ import annotations

from typing import Final

import numpy as np

from nextact_server.training.metrics import Float64, Int64

_ROUNDS: Final = 10


def decided(action_log: Float64, weights: Float64) -> Int64:
    """Return the action that each row decides for, int64[n]: the highest of `action_log` float64[n, A] + `weights`."""
    chosen: Int64 = (action_log + weights).argmax(axis=1)
    return chosen


def fit_weights(action_log: Float64, action: Int64) -> Float64:
    """Return float64[A], added to log probabilities so that deciding for the highest gives the best macro-F1.

    `action_log` float64[n, A] foretold what came, `action` int64[n]. A shift of the prior (Lipton et al. 2014 show why
    F1 wants a threshold of its own), found action by action: each in turn gets the best weight while the others keep
    theirs, until none can be bettered.
    """
    weights = np.zeros(action_log.shape[1])
    if not len(action):
        return weights
    best = f1(action, decided(action_log, weights), len(weights))
    for _ in range(_ROUNDS):
        before = best
        for one in range(len(weights)):
            value, weight = _best_weight(action_log + weights, action, one)
            if value > best + 1e-12:
                best = value
                weights[one] += weight
        if best == before:
            break
    centred: Float64 = weights - weights.mean()
    return centred


def f1(action: Int64, chosen: Int64, actions: int) -> float:
    """Return the mean F1 over the actions that came; see `f1_of`."""
    hits = np.bincount(action[action == chosen], minlength=actions).astype(np.float64)
    came, told = np.bincount(action, minlength=actions), np.bincount(chosen, minlength=actions)
    return float(f1_of(hits, came.astype(np.float64), told.astype(np.float64), came > 0))


def f1_of(hits: Float64, came: Float64, told: Float64, counted: np.ndarray) -> Float64:
    """Return macro-F1 from counts float64[..., A]: of right decisions, of what came, and of decisions.

    The mean goes over the actions that `counted` bool[A] marks; one that neither came nor was told has 0.
    """
    both = came + told
    single = np.divide(2.0 * hits, both, out=np.zeros_like(both), where=both > 0)
    mean: Float64 = single[..., counted].mean(axis=-1)
    return mean


def _best_weight(scores: Float64, action: Int64, one: int) -> tuple[float, float]:
    """Return the best macro-F1 that a weight of action `one` can bring, and the weight."""
    rows, actions = scores.shape
    others = scores.copy()
    others[:, one] = -np.inf
    rival = others.argmax(axis=1)
    needed = others[np.arange(rows), rival] - scores[:, one]
    order = np.argsort(needed, kind="stable")
    needed, rival, came = needed[order], rival[order], action[order]
    # Row t: the t rows that need the least decide for `one`, the others for their rival.
    moved = np.zeros((rows + 1, actions))
    moved[np.arange(1, rows + 1), rival] = 1.0
    lost = np.zeros((rows + 1, actions))
    lost[np.arange(1, rows + 1), rival] = rival == came
    moved, lost = moved.cumsum(axis=0), lost.cumsum(axis=0)
    told = np.bincount(rival, minlength=actions) - moved
    hits = np.bincount(rival[rival == came], minlength=actions) - lost
    told[:, one] = np.arange(rows + 1)
    hits[:, one] = np.concatenate(([0], np.cumsum(came == one)))
    total = np.bincount(action, minlength=actions).astype(np.float64)
    value = f1_of(hits, np.broadcast_to(total, hits.shape), told, total > 0)
    possible = np.concatenate(([True], np.diff(needed) > 0, [True]))
    at = int(np.where(possible, value, -1.0).argmax())
    below = needed[at - 1] if at > 0 else needed[0] - 2.0
    above = needed[at] if at < rows else needed[-1] + 2.0
    return float(value[at]), float((below + above) / 2.0)
