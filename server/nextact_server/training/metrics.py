"""Ranks of what came next, and the figures made of them."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

UNRANKED: Final = np.iinfo(np.int64).max
"""Rank of a target that was removed as seen: it can never be a hit."""

CUTOFFS: Final = (1, 5, 10, 20)


def item_metrics(ranks: Int64) -> dict[str, Float64]:
    """Return the value of each next-item metric for each event; `ranks` int64[n] starts at 0 for the best.

    HR, NDCG and MRR at each cutoff; at 1 all three are the same, which HR@1 tells. MRR without a cutoff goes over the
    whole ranking.
    """
    place = np.minimum(ranks, 2**31) + 1.0
    reciprocal = np.where(ranks == UNRANKED, 0.0, 1.0 / place)
    discount = np.where(ranks == UNRANKED, 0.0, 1.0 / np.log2(place + 1.0))
    hits = {f"HR@{k}": (ranks < k).astype(np.float64) for k in CUTOFFS}
    gains = {f"NDCG@{k}": np.where(ranks < k, discount, 0.0) for k in CUTOFFS[1:]}
    firsts = {f"MRR@{k}": np.where(ranks < k, reciprocal, 0.0) for k in CUTOFFS[1:]}
    return {**hits, **gains, **firsts, "MRR": reciprocal}


def target_ranks(scores: npt.NDArray[np.floating[Any]], targets: Int64) -> Int64:
    """Return the rank of each row's target among its scores, float[n, C]; -inf means removed.

    A tie counts against the target, so a score that says nothing earns nothing; so does a score that is not a number.
    """
    own = scores[np.arange(len(targets)), targets]
    worse = np.count_nonzero(scores < own[:, None], axis=1)
    return np.where(np.isneginf(own), UNRANKED, scores.shape[1] - 1 - worse)
