"""When the next event comes: a discrete-time hazard over bins of the time since the user's last event.

Each bin has a logit: the odds that the next event comes in it, given that none came before it (the logistic hazard of
Gensheimer and Narasimhan 2019). Within a bin, and beyond the last edge, the rate is constant, as in the constant-hazard
interpolation of Kvamme and Borgan (2019): a bin of logit x and width w has the rate softplus(x) / w per second, and the
probability that nothing comes over a span is exp(-rate x time), multiplied over the bins that it crosses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Float64: TypeAlias = npt.NDArray[np.float64]
Float32: TypeAlias = npt.NDArray[np.float32]
Int64: TypeAlias = npt.NDArray[np.int64]
Bool: TypeAlias = npt.NDArray[np.bool_]

BINS: Final = 24
NO_GAP: Final = -1
"""Stands for a time until the next event that is not known at all."""

_BEYOND: Final = 2
"""Bins beyond the horizon; each ends at twice the edge before it."""
_SHORTEST_S: Final = 1.0
_LONGEST_S: Final = 1e9
_SURE: Final = 1e6
"""Logits above it count as it; the event is certain far below that."""
_US: Final = 1e6


@lru_cache(maxsize=16)
def bin_edges(horizon_s: float, bins: int = BINS) -> Float64:
    """Return the bins' edges in seconds, float64[bins + 1], rising from 0; not to be written to.

    The first bin ends at one second (for a horizon under a minute, at a sixtieth of it), the last two at two and four
    times the horizon, and those between are as many equal steps of the logarithm, so that the horizon is an edge.
    Raises ValueError for a horizon that is not from a second to 1e9 seconds, or fewer than 4 bins.
    """
    if not _SHORTEST_S <= horizon_s <= _LONGEST_S:
        raise ValueError(f"horizon_s is {horizon_s}; it must be from {_SHORTEST_S:g} to {_LONGEST_S:g} seconds")
    if bins < _BEYOND + 2:
        raise ValueError(f"{bins} bins of time; at least {_BEYOND + 2} are needed")
    inner = np.geomspace(min(1.0, horizon_s / 60.0), horizon_s, bins - _BEYOND)
    inner[-1] = horizon_s
    edges = np.concatenate(([0.0], inner, horizon_s * 2.0 ** np.arange(1, _BEYOND + 1)))
    edges.flags.writeable = False
    return edges


def loss(hazard_logits: Tensor, gap_us: Tensor, censored: Tensor, edges_s: Float64) -> Tensor:
    """Return the mean negative log likelihood of what followed n events, a scalar; 0 where nothing is known.

    `hazard_logits` float[n, bins] after each event; `gap_us` int64[n] is how long after it the next one came or, where
    `censored` bool[n], how long none was seen to come: a user whose events end has been watched that long, and is never
    said to have left. Rows with NO_GAP are left out. A gap beyond the last edge says only that nothing came until
    there. An event in bin k counts log h_k + sum over j < k of log(1 - h_j); a censored row counts log(1 - h_j) of
    every bin of which at least half was watched (Gensheimer and Narasimhan's rule; counting whole bins only would make
    events too likely, since those that come in the last, cut bin are counted all the same).
    """
    known = gap_us >= 0
    logits = hazard_logits[known]
    if not len(logits):
        return hazard_logits.sum() * 0.0
    gap = gap_us[known].to(torch.float64) / _US
    edges = torch.from_numpy(edges_s.copy()).to(gap.device)
    came = ~censored[known] & (gap < edges[-1])
    passed = ((gap[:, None] - edges[:-1]) / edges.diff()).clamp(0.0, 1.0)
    at = (torch.bucketize(gap, edges, right=True) - 1).clamp(max=logits.shape[1] - 1)
    # The bin in which an event came was not survived; with h = sigmoid(x), -log(1 - h) = softplus(x).
    is_here = torch.arange(logits.shape[1], device=gap.device) == at[:, None]
    survived = ((passed >= 0.5) & ~(is_here & came[:, None])).to(logits.dtype)
    missed = torch.where(came, F.softplus(-logits.gather(1, at[:, None])[:, 0]), 0.0)
    return ((survived * F.softplus(logits)).sum(dim=1) + missed).mean()


def leave_probability(
    hazard_logits: npt.NDArray[np.floating], elapsed_s: Float64, within_s: float, edges_s: Float64
) -> Float32:
    """Return P(no event within `within_s` from now | none in the `elapsed_s` since the last), float32[n].

    `hazard_logits` float[n, bins] as they were after the last event, `elapsed_s` float[n], where below 0 counts as 0.
    With S the probability that nothing comes for a time, it is S(elapsed + within) / S(elapsed), in [0, 1].
    """
    spent = _time_in_bins(elapsed_s, within_s, edges_s)
    nothing: Float32 = np.exp(-(_rates(hazard_logits, edges_s) * spent).sum(axis=1)).astype(np.float32)
    return nothing


def expected_gap_s(hazard_logits: npt.NDArray[np.floating], elapsed_s: Float64, edges_s: Float64) -> Float32:
    """Return the expected seconds from now to the next event, given that none came since the last one, float32[n].

    It is a restricted mean, for the plain one hangs on times that nobody ever watched: a wait from now longer than the
    last edge, which is four times the horizon, counts as the last edge. So it is E[min(T - elapsed, last edge) |
    T > elapsed], the integral of S(elapsed + u) / S(elapsed) over u from 0 to the last edge, exact for rates constant
    within bins. Arguments as in `leave_probability`.
    """
    rates = _rates(hazard_logits, edges_s)
    spent = _time_in_bins(elapsed_s, float(edges_s[-1]), edges_s)
    hazard = rates * spent
    before = np.exp(hazard - np.cumsum(hazard, axis=1))  # that nothing comes until a bin begins
    # The mean of exp(-rate x u) over the time in a bin is (1 - exp(-hazard)) / hazard, which tends to 1.
    small = hazard < 1e-12
    mean = np.where(small, 1.0, -np.expm1(-hazard) / np.where(small, 1.0, hazard))
    waiting: Float32 = (before * mean * spent).sum(axis=1).astype(np.float32)
    return waiting


def until_next(starts: Int64, time_us: Int64, end_us: Int64 | int) -> tuple[Int64, Bool]:
    """Return what `loss` is told of each of n events: `gap_us` int64[n] and `censored` bool[n].

    Rows `starts[u]` up to `starts[u + 1]` of `time_us` int64[n] are user u's events, oldest first. The last one of each
    is censored when the watching ended, `end_us`: one moment for all, or int64[U] for users who were watched for
    different times, such as those whose last event is kept back: their watching ends with the last one that is there.
    Not for data without times, where everything is NO_GAP.
    """
    gap = np.diff(time_us, append=0)
    last = starts[1:][np.diff(starts) > 0] - 1
    end = np.broadcast_to(np.asarray(end_us, np.int64), len(starts) - 1)[np.diff(starts) > 0]
    gap[last] = end - time_us[last]
    censored = np.zeros(len(time_us), np.bool_)
    censored[last] = True
    return np.maximum(gap, 0), censored


def _rates(hazard_logits: npt.NDArray[np.floating], edges_s: Float64) -> Float64:
    """Events per second in each bin, float64[n, bins]."""
    logits = np.minimum(hazard_logits.astype(np.float64), _SURE)
    # np.logaddexp(0, logits) is the same, and takes three times as long.
    softplus = np.maximum(logits, 0.0) + np.log1p(np.exp(-np.abs(logits)))
    rates: Float64 = softplus / np.diff(edges_s)
    return rates


def _time_in_bins(elapsed_s: Float64, window_s: float, edges_s: Float64) -> Float64:
    """How much of the time from `elapsed_s` on, `window_s` long, falls into each bin, float64[n, bins].

    The last bin has no end here. Counted from now, so that no time is so long that the window is lost beside it.
    """
    since = np.maximum(np.asarray(elapsed_s, np.float64), 0.0)[:, None]
    begin = np.maximum(edges_s[:-1] - since, 0.0)
    end = np.append(edges_s[1:-1], np.inf) - since
    spent: Float64 = np.maximum(np.minimum(end, window_s) - begin, 0.0)
    return spent
