"""Calibration of what is foretold: one temperature that all logits of a head are divided by (Guo et al. 2017).

It changes no order, only how sure the head says it is. It is fitted on events that the model was not trained on.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from nextact_server.training.history import runs, seen_before
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import Int64

Logits: TypeAlias = npt.NDArray[np.floating[Any]]

_WIDEST: Final = 20.0
"""Temperatures from 1/20 to 20 are looked at."""

_CELLS: Final = 2**22
"""Scores of items that a temperature is fitted on; some thousand rows settle one number."""


def temperature(logits: Logits, came: Int64) -> float:
    """Return the temperature of the least log-loss of `logits` float[n, A] on what `came`, int64[n] columns of it.

    Log probabilities will do, for dividing them and making them sum to 1 again is the same as dividing the logits. A
    column may be -inf, what is not offered; rows whose own column is are left out. 1.0 where nothing is left, or where
    no temperature is better than another.
    """
    target = np.take_along_axis(logits, came[:, None], axis=1).astype(np.float64) if len(came) else np.zeros((0, 1))
    offered = np.isfinite(target[:, 0])
    if not offered.any():
        return 1.0
    margin = logits[offered] - target[offered]
    finite = np.where(np.isfinite(margin), margin, 0.0)

    def slope(log_inverse: float) -> float:
        # The loss is convex in 1 / temperature, so that its slope there has one root at most.
        return float((_probabilities(margin * math.exp(log_inverse)) * finite).sum(axis=1).mean())

    if slope(0.0) == 0.0:
        return 1.0
    widest = math.log(_WIDEST)
    if slope(-widest) >= 0.0:
        return _WIDEST
    if slope(widest) <= 0.0:
        return 1.0 / _WIDEST
    return math.exp(-float(brentq(slope, -widest, widest, xtol=1e-9)))


def item_temperature(scorer: Scorer, judged: Judged, *, exclude_seen: bool, cells: int = _CELLS) -> float:
    """Return the temperature of the next-item scores of `scorer` on the judged events, 1.0 if it ranks no items.

    Its scores are to be logits, without a prior mixed in. Of the events whose item is to be foretold, so many are
    taken, evenly over all of them, that at most `cells` scores are held.
    """
    if not scorer.items:
        return 1.0
    sequences = judged.sequences
    rows, _ = runs(judged.first, sequences.starts[1:])
    rows = rows[sequences.item_target[rows]]
    most = max(1, cells // scorer.items)
    if len(rows) > most:
        rows = rows[np.arange(most) * len(rows) // most]
    if not len(rows):
        return 1.0
    scores = scorer(sequences, rows, seen_before(sequences, rows, scorer.items) if exclude_seen else None).scores
    return 1.0 if scores is None else temperature(scores, sequences.item[rows])


def tempered(logits: Logits, heat: float) -> npt.NDArray[np.float64]:
    """Return log probabilities float64[n, A] of `logits` float[n, A] at the temperature `heat`.

    A column may be -inf and stays so, but not all of a row.
    """
    scaled = logits / float(heat)
    shifted = scaled.astype(np.float64) - scaled.max(axis=1, keepdims=True)
    log: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log


def _probabilities(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    made: npt.NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    made /= made.sum(axis=1, keepdims=True)
    return made
