"""Calibration of what is foretold: one temperature that all logits of a head are divided by (Guo et al. 2017).

It changes no order, only how sure the head says it is. It is fitted on events that the model was not trained on.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from nextact_server.training.sequences import Int64

Logits: TypeAlias = npt.NDArray[np.floating[Any]]

_WIDEST: Final = 20.0
"""Temperatures from 1/20 to 20 are looked at."""


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


def _probabilities(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    made: npt.NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    made /= made.sum(axis=1, keepdims=True)
    return made
