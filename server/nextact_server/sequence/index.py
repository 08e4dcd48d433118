"""The item index: every item that an event may name or an answer may rank, as rows of vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from nextact_server.events.hashing import hash_strings
from nextact_server.events.key_table import KeyTable
from nextact_server.sequence.card import ModelCard
from nextact_server.sequence.config import FIRST_ITEM, NO_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.model import SequenceModel


class IndexFull(ValueError):
    """More items than the index may hold; the message names the limit and the setting."""


@dataclass(frozen=True, slots=True)
class IndexItem:
    """What the index needs of a catalogue item; `content` is float32[content_dim] or None."""

    item_id: str
    content: NDArray[np.float32] | None
    attributes: Mapping[str, str]
    available: bool


class ItemIndex:
    """Vectors and biases of all items, by row. Rows 0..2 mean padding, an unknown item and no item.

    Trained items are there from the start and can be ranked without a catalogue entry; catalogue items come by
    `upsert`. An item can be ranked if it is available and has an id that was trained or content. One thread owns the
    index: nothing here locks.
    """

    def __init__(self, model: SequenceModel, card: ModelCard, max_items: int) -> None:
        self._model = model
        self._max_items = max_items
        self._table = KeyTable()
        self._ids: list[str] = [""] * FIRST_ITEM
        capacity = max(1024, 2 * (len(card.items) + FIRST_ITEM))
        dim = model.config.item_dim
        self._vectors = torch.zeros(capacity, dim, device=model.device)
        self._inputs = torch.zeros(capacity, dim + model.config.kind_dim, device=model.device)
        self._bias = torch.full((capacity,), -torch.inf, device=model.device)
        self._vocab = np.full(capacity, UNKNOWN_ITEM, np.int64)
        self._attributes: dict[int, Mapping[str, str]] = {}
        self._postings: dict[tuple[str, str], set[int]] = {}
        self._size = FIRST_ITEM
        self._vocab[:FIRST_ITEM] = np.arange(FIRST_ITEM)
        rows = self._rows_for(list(card.items))
        self._vocab[rows] = np.arange(FIRST_ITEM, FIRST_ITEM + len(rows))
        self.reset()

    def __len__(self) -> int:
        return self._size - FIRST_ITEM

    def reset(self) -> None:
        """Forgets the catalogue: what was trained is as at the start, all else has no content and is not ranked."""
        rows = np.arange(self._size)
        self._attributes.clear()
        self._postings.clear()
        self._embed(rows, None)
        self._set_rankable(rows, self._vocab[rows] >= FIRST_ITEM)

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of the items with the given keys, int64[n]; UNKNOWN_ITEM for those never seen."""
        found = self._table.find(keys)
        return np.where(found < 0, UNKNOWN_ITEM, found + FIRST_ITEM)

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the items with the given ids, int64[n]; UNKNOWN_ITEM for those never seen."""
        return self.lookup(hash_strings(pa.array(item_ids, pa.string())))

    def upsert(self, items: Sequence[IndexItem]) -> None:
        """Adds items or replaces what is known of them. Raises IndexFull, then nothing has changed."""
        rows = self._rows_for([item.item_id for item in items])
        content = np.zeros((len(items), self._model.config.content_dim), np.float32)
        has_content = np.zeros(len(items), np.bool_)
        for position, item in enumerate(items):
            if item.content is not None:
                content[position], has_content[position] = item.content, True
            self._set_attributes(int(rows[position]), item.attributes)
        self._embed(rows, (content, has_content))
        available = np.array([item.available for item in items], np.bool_)
        self._set_rankable(rows, available & (has_content | (self._vocab[rows] >= FIRST_ITEM)))

    def delete(self, item_id: str) -> None:
        """Takes an item out of the ranking; a trained one still enters states by its id."""
        row = int(self.rows_of([item_id])[0])
        if row >= FIRST_ITEM:
            self._set_attributes(row, {})
            self._embed(np.array([row]), None)
            self._set_rankable(np.array([row]), np.zeros(1, np.bool_))

    def vocabulary(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The model's vocabulary rows of the given rows' items, below FIRST_ITEM for those that were never trained on.

        A trained item has the same number in both.
        """
        return self._vocab[rows]

    def inputs(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """What the given rows' items put into a step, float32[n, item_dim + kind_dim]."""
        return self._inputs[torch.from_numpy(rows)]

    def log_scores(
        self, query: torch.Tensor, recent: torch.Tensor | None, seen: Sequence[NDArray[np.int64] | None]
    ) -> torch.Tensor:
        """Log scores float32[n, items] of all rows for n users; -inf where an item cannot be ranked or is seen.

        `query` float32[n, item_dim] and `recent` as the model's heads give and take them; `seen[i]` are the rows that
        are not offered to user i, None for none.
        """
        logits = self.logits(query, None)
        for user, rows in enumerate(seen):
            if rows is not None and len(rows):
                logits[user, torch.from_numpy(rows)] = -torch.inf
        return self._model.log_scores(logits, recent)

    def logits(self, query: torch.Tensor, rows: NDArray[np.int64] | None) -> torch.Tensor:
        """Logits float32[n, items] of the given rows, or of all; -inf where an item cannot be ranked."""
        if rows is None:
            return torch.addmm(self._bias[: self._size], query, self._vectors[: self._size].T)
        index = torch.from_numpy(rows)
        return torch.addmm(self._bias[index], query, self._vectors[index].T)

    @property
    def mixes_prior(self) -> bool:
        """Whether an item's score depends on what else is offered, since the model mixes probabilities."""
        return self._model.prior is not None

    @property
    def size(self) -> int:
        """Number of rows, the reserved ones included."""
        return self._size

    def ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The item ids of the given rows."""
        return [self._ids[row] for row in rows.tolist()]

    def with_attributes(self, wanted: Mapping[str, str]) -> NDArray[np.int64]:
        """Rows of the items that have all the wanted attribute values, ascending."""
        postings = sorted((self._postings.get(pair, set()) for pair in wanted.items()), key=len)
        return np.array(sorted(set.intersection(*postings)) if postings else [], np.int64)

    def _rows_for(self, item_ids: list[str]) -> NDArray[np.int64]:
        keys = hash_strings(pa.array(item_ids, pa.string()))
        unseen = int((self._table.find(keys) < 0).sum())
        if len(self) + unseen > self._max_items:
            raise IndexFull(
                f"{len(self)} items and {unseen} new ones; the index holds at most {self._max_items} (index_items)"
            )
        ordinals, new = self._table.find_or_insert(keys)
        rows = ordinals + FIRST_ITEM
        fresh = np.flatnonzero(new)
        for position in fresh.tolist():
            if rows[position] == len(self._ids):
                self._ids.append(item_ids[position])
        self._size = len(self._ids)
        self._grow()
        return rows

    def _grow(self) -> None:
        capacity = len(self._vocab)
        if self._size <= capacity:
            return
        wider = max(self._size, 2 * capacity)
        self._vectors = torch.cat([self._vectors, self._vectors.new_zeros(wider - capacity, self._vectors.shape[1])])
        self._inputs = torch.cat([self._inputs, self._inputs.new_zeros(wider - capacity, self._inputs.shape[1])])
        self._bias = torch.cat([self._bias, self._bias.new_full((wider - capacity,), -torch.inf)])
        self._vocab = np.concatenate([self._vocab, np.full(wider - capacity, UNKNOWN_ITEM, np.int64)])

    def _embed(self, rows: NDArray[np.int64], content: tuple[NDArray[np.float32], NDArray[np.bool_]] | None) -> None:
        if content is None:
            dim = self._model.config.content_dim
            content = np.zeros((len(rows), dim), np.float32), np.zeros(len(rows), np.bool_)
        device = self._model.device
        vocab = torch.from_numpy(self._vocab[rows]).to(device)
        known = (torch.from_numpy(content[0]).to(device), torch.from_numpy(content[1]).to(device))
        index = torch.from_numpy(rows)
        with torch.inference_mode():
            vectors = self._model.item_vectors(vocab, *known)
            self._vectors[index] = vectors
            self._inputs[index] = self._model.item_inputs(vectors, vocab)
            self._bias[index] = self._model.item_bias(vocab, *known)

    def _set_rankable(self, rows: NDArray[np.int64], rankable: NDArray[np.bool_]) -> None:
        # An item that cannot be ranked has no bias but minus infinity: it falls out of every ranking by itself.
        self._bias[torch.from_numpy(rows[~rankable])] = -torch.inf

    def _set_attributes(self, row: int, attributes: Mapping[str, str]) -> None:
        for pair in self._attributes.pop(row, {}).items():
            holders = self._postings[pair]
            holders.discard(row)
            if not holders:
                del self._postings[pair]
        if attributes:
            self._attributes[row] = dict(attributes)
            for pair in attributes.items():
                self._postings.setdefault(pair, set()).add(row)


def item_rows(index: ItemIndex, keys: NDArray[np.uint64], has_item: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index rows of events' items: NO_ITEM where an event names none, UNKNOWN_ITEM where it names one never seen."""
    return np.where(has_item, index.lookup(keys), NO_ITEM)
