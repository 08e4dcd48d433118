"""Ranks of what came next, the figures made of them, and how sure one may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nextact_server.sequence.card import Estimate

Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

UNRANKED: Final = np.iinfo(np.int64).max
"""Rank of a target that was removed as seen: it can never be a hit."""

CUTOFFS: Final = (1, 5, 10, 20)


def item_metrics(ranks: Int64) -> dict[str, Float64]:
    """Return the value of each next-item metric for each event; `ranks` int64[n] starts at 0 for the best."""
    discount = np.where(ranks < CUTOFFS[-1], 1.0 / np.log2(np.minimum(ranks, CUTOFFS[-1]) + 2.0), 0.0)
    hits = {f"HR@{k}": (ranks < k).astype(np.float64) for k in CUTOFFS}
    gains = {f"NDCG@{k}": np.where(ranks < k, discount, 0.0) for k in CUTOFFS[1:]}
    reciprocal = np.where(ranks == UNRANKED, 0.0, 1.0 / (np.minimum(ranks, 2**31) + 1.0))
    return {**hits, **gains, "MRR": reciprocal}


def target_ranks(scores: npt.NDArray[np.float32], targets: Int64) -> Int64:
    """Return the rank of each row's target among its scores, float[n, C]; -inf means removed.

    A tie counts against the target, so a score that says nothing earns nothing.
    """
    own = scores[np.arange(len(targets)), targets]
    ranks = (scores >= own[:, None]).sum(axis=1).astype(np.int64) - 1
    return np.where(np.isneginf(own), UNRANKED, ranks)


def bootstrap(values: Mapping[str, Float64], user: Int64, *, samples: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """Estimate the mean over events of each metric, with a 95 % percentile interval from resampling users.

    `values` maps a metric to float64[n], `user` int64[n] numbers each event's user. Users are drawn, not events,
    because the events of a user resemble each other (Efron and Tibshirani 1993, ch. 8). Differences between models
    are paired by passing the difference per event.
    """
    users, index = np.unique(user, return_inverse=True)
    count = np.bincount(index, minlength=len(users)).astype(np.float64)
    draws = np.random.default_rng(seed).multinomial(len(users), np.full(len(users), 1.0 / len(users)), size=samples)
    events = draws @ count
    out = {}
    for name, value in values.items():
        total = np.bincount(index, weights=value, minlength=len(users))
        low, high = np.percentile(draws @ total / events, (2.5, 97.5))
        out[name] = Estimate(value=float(total.sum() / count.sum()), low=float(low), high=float(high))
    return out


def difference(a: Mapping[str, Float64], b: Mapping[str, Float64], names: Sequence[str]) -> dict[str, Float64]:
    """Return a - b per event for the named metrics."""
    return {name: a[name] - b[name] for name in names}
