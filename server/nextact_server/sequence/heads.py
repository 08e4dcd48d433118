"""What the heads say of users: embedding, action scores, ranked items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nextact_server.events.call import Filter, Want
from nextact_server.sequence.config import FIRST_ITEM
from nextact_server.sequence.index import ItemIndex
from nextact_server.sequence.model import SequenceModel
from nextact_server.sequence.ranking import NO_ROW, top_items

WANTS_QUERY = int(Want.EMBEDDING | Want.ITEMS)


@dataclass(frozen=True, slots=True)
class ItemRequest:
    """One user's wish for items: how many, which, and the index rows that count as seen (None: none do)."""

    top_k: int
    filter: Filter
    seen: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What ranking reads of n users: their embeddings, `query` float32[n, item_dim], and the last items that the model
    wants to know, `recent` float32[n, reach], None where it wants none."""

    query: torch.Tensor
    recent: torch.Tensor | None

    def take(self, users: NDArray[np.int64]) -> "Reading":
        """The reading of some of the users."""
        index = torch.from_numpy(users)
        return Reading(self.query[index], None if self.recent is None else self.recent[index])


def read(model: SequenceModel, hidden: torch.Tensor, recent: torch.Tensor | None) -> Reading:
    """Read users' hidden vectors float32[n, output_dim] and last items."""
    with torch.inference_mode():
        return Reading(model.query(hidden, recent), recent)


def action_scores(model: SequenceModel, hidden: torch.Tensor) -> NDArray[np.float32]:
    """P(action | another event comes) over the known actions, float32[n, A], rows summing to 1."""
    with torch.inference_mode():
        return torch.softmax(model.action_logits(hidden), dim=1).cpu().numpy()


def next_items(
    index: ItemIndex, reading: Reading, requests: Sequence[ItemRequest], block: int = 256
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best items of each user: index rows int64[n, K] and log scores float32[n, K], K the largest top_k asked.

    Padded with NO_ROW and -inf where a request asks for fewer or fewer can be ranked. `block` bounds the memory of the
    score matrix, users x items.
    """
    k = max(request.top_k for request in requests)
    rows = np.full((len(requests), k), NO_ROW, np.int64)
    scores = np.full((len(requests), k), -np.inf, np.float32)
    plain = [at for at, request in enumerate(requests) if not request.filter.names_items]
    for start in range(0, len(plain), block):
        at = np.array(plain[start : start + block])
        rows[at], scores[at] = _rank_all(index, reading.take(at), [requests[i].seen for i in at.tolist()], k)
    for at_one, request in enumerate(requests):
        if request.filter.names_items:
            allowed = admitted(index, request.filter, request.seen)
            one = reading.take(np.array([at_one]))
            rows[at_one], scores[at_one] = score_candidates(index, one, allowed, request.seen, k)
    if any(request.top_k < k for request in requests):
        beyond = np.arange(k)[None, :] >= np.array([request.top_k for request in requests])[:, None]
        rows[beyond], scores[beyond] = NO_ROW, -np.inf
    return rows, scores


def score_candidates(
    index: ItemIndex, reading: Reading, candidates: NDArray[np.int64], seen: NDArray[np.int64] | None, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best k of the given index rows for one user, padded as `next_items` pads.

    Their scores are those that they have among all items but the `seen` ones.
    """
    if not len(candidates):
        return np.full(k, NO_ROW, np.int64), np.full(k, -np.inf, np.float32)
    with torch.inference_mode():
        if not index.mixes_prior:
            scores = index.logits(reading.query, candidates)
        else:
            scores = index.log_scores(reading.query, reading.recent, [seen])[:, torch.from_numpy(candidates)]
        rows, best = top_items(index, scores, candidates, k)
    return rows[0], best[0]


def admitted(index: ItemIndex, wish: Filter, seen: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Index rows that a filter lets through, ascending, each once."""
    if wish.include:
        rows = np.unique(index.rows_of(wish.include))
        rows = rows[rows >= FIRST_ITEM]
    else:
        rows = np.arange(FIRST_ITEM, index.size)
    if wish.attributes:
        rows = np.intersect1d(rows, index.with_attributes(wish.attributes), assume_unique=True)
    if wish.exclude:
        rows = np.setdiff1d(rows, index.rows_of(wish.exclude), assume_unique=False)
    if seen is not None:
        rows = np.setdiff1d(rows, seen)
    return rows


def _rank_all(
    index: ItemIndex, reading: Reading, seen: Sequence[NDArray[np.int64] | None], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    with torch.inference_mode():
        return top_items(index, index.log_scores(reading.query, reading.recent, seen), None, k)


def wants_query(want: int) -> bool:
    """Whether a prediction needs the user's embedding computed."""
    return bool(want & WANTS_QUERY)
