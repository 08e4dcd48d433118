"""From log scores to ranked items: the best k by score, then by item id."""

import numpy as np
import torch
from numpy.typing import NDArray

from nextact_server.sequence.index import ItemIndex

NO_ROW = -1


def top_items(
    index: ItemIndex, scores: torch.Tensor, rows: NDArray[np.int64] | None, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best k items of each user: index rows int64[n, k] and scores float32[n, k], padded with NO_ROW and -inf.

    `scores` float32[n, items] are those of `rows`, or of the whole index; -inf keeps an item out. Ordered by score
    descending, then item id ascending, also where equal scores stand at the k-th place.
    """
    users, width = scores.shape
    take = min(k + 1, width)
    values, columns = torch.topk(scores, take, dim=1)
    best, at = values.cpu().numpy(), columns.cpu().numpy()
    ties = (best[:, 1:] == best[:, :-1]) & np.isfinite(best[:, 1:])
    for user in np.flatnonzero(ties.any(axis=1)).tolist():
        best[user], at[user] = _break_ties(index, scores[user].cpu().numpy(), rows, best[user])
    item_rows = at if rows is None else rows[at]
    ranked = np.full((users, k), NO_ROW, np.int64)
    log_scores = np.full((users, k), -np.inf, np.float32)
    kept = min(k, take)
    log_scores[:, :kept] = best[:, :kept]
    ranked[:, :kept] = np.where(np.isfinite(best[:, :kept]), item_rows[:, :kept], NO_ROW)
    return ranked, log_scores


def _break_ties(
    index: ItemIndex, scores: NDArray[np.float32], rows: NDArray[np.int64] | None, best: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    finite = best[np.isfinite(best)]
    candidates = np.flatnonzero(scores >= finite[-1])
    ids = index.ids(candidates if rows is None else rows[candidates])
    order = sorted(range(len(candidates)), key=lambda position: (-scores[candidates[position]], ids[position]))
    chosen = candidates[order[: len(best)]]
    padded = np.zeros(len(best), np.int64)
    padded[: len(chosen)] = chosen
    values = np.full(len(best), -np.inf, np.float32)
    values[: len(chosen)] = scores[chosen]
    return values, padded
