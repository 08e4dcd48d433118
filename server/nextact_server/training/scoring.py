"""What foretells events from those before them, many users at once; among others a sequence model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from nextact_server.sequence.config import FIRST_ITEM, NO_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.history import last_items, owners, runs
from nextact_server.training.sequences import ABSENT, Bool, Catalogue, Int64, Sequences

Scores: TypeAlias = npt.NDArray[np.floating[Any]]

SCANNED_EVENTS: Final = 2**15
"""Events that a model reads at a time; their inputs take some tens of megabytes."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """What is expected before each of m events; None for what is not foretold at all.

    `scores` float[m, C], -inf where an item is not offered; `actions` float[m, A], log probabilities.
    """

    scores: Scores | None
    actions: Scores | None


class Scorer(Protocol):
    """Foretells events, each from its user's events before it."""

    @property
    def items(self) -> int:
        """Columns of its scores, the items of the catalogue; 0 if it ranks none."""

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        """Foretell `rows` int64[m], ascending, of any users; items that `removed` bool[m, C] marks are not offered."""


class ModelScorer:
    """A sequence model's scores, its item vectors computed once."""

    def __init__(self, model: SequenceModel, catalogue: Catalogue, vocab: Int64) -> None:
        """Score the catalogue, whose items have the rows `vocab` int64[C] in the model's vocabulary.

        The model stays on its device and in its mode, which should be that of inference.
        """
        self._model = model
        self._vocab = torch.from_numpy(vocab).to(model.device)
        self._rows = vocab
        known = np.flatnonzero(vocab >= FIRST_ITEM)
        columns = np.full(model.config.n_items, -1, dtype=np.int64)
        columns[vocab[known]] = known
        self._columns = torch.from_numpy(columns).to(model.device)
        content, has = (torch.from_numpy(part).to(model.device) for part in (catalogue.content, catalogue.has_content))
        with torch.inference_mode():
            self._vectors = model.item_vectors(self._vocab, content, has)
            self._bias = model.item_bias(self._vocab, content, has)

    @property
    def items(self) -> int:
        """See Scorer."""
        return len(self._rows)

    def __call__(self, sequences: Sequences, rows: Int64, removed: Bool | None) -> Foretold:
        """See Scorer; a scan over each user's history up to the last row, which equals stepping event by event."""
        model = self._model
        with torch.inference_mode():
            before = self._hidden(sequences, rows)
            recent = self._recent(sequences, rows)
            scores = torch.addmm(self._bias, model.query(before, recent), self._vectors.T)
            if removed is not None:
                scores.masked_fill_(torch.from_numpy(removed).to(scores.device), -torch.inf)
            scores = model.log_scores(scores, recent, self._columns)
            actions = model.action_logits(before).log_softmax(dim=1).cpu().numpy() if model.config.actions else None
        return Foretold(scores.cpu().numpy(), actions)

    def _hidden(self, sequences: Sequences, rows: Int64) -> torch.Tensor:
        """Return what the heads read before each row, float32[m, output_dim]."""
        model = self._model
        users, at, slot = np.unique(owners(sequences, rows), return_index=True, return_inverse=True)
        begin, stop = sequences.starts[users], rows[np.append(at[1:], len(rows)) - 1]
        if model.config.cell == "sasrec":  # it forgets all before its window, and reads what fits into it in one pass
            begin = np.maximum(begin, rows[at] - model.config.window)
        # Users of like length are read together: a scan takes as many steps as its longest history.
        order = np.argsort(stop - begin, kind="stable")
        part = np.empty(len(users), dtype=np.int64)
        part[order] = np.cumsum((stop - begin)[order]) // SCANNED_EVENTS
        nobody = model.initial_hidden()
        out = nobody.new_empty((len(rows), nobody.shape[1]))
        for number in np.unique(part):
            chosen = np.flatnonzero(part == number)
            past, _ = runs(begin[chosen], stop[chosen])
            x = event_inputs(model, sequences, past, self._vocab, self._vectors)
            lengths = stop[chosen] - begin[chosen]
            hidden, _ = model.scan(x, torch.from_numpy(lengths), model.initial_state(len(chosen)))
            base = np.zeros(len(users), dtype=np.int64)
            base[chosen] = np.cumsum(lengths) - lengths
            asked = np.flatnonzero(part[slot] == number)
            offset = rows[asked] - begin[slot[asked]]
            place = np.where(offset == 0, 0, base[slot[asked]] + offset)
            out[self._tensor(asked)] = torch.cat((nobody, hidden))[self._tensor(place)]
        return out

    def _recent(self, sequences: Sequences, rows: Int64) -> torch.Tensor | None:
        """Return the vocabulary rows of the last items as the users' states name them, float32[m, remembered_items]."""
        reach = self._model.config.remembered_items
        if not reach:
            return None
        known = (sequences.item != ABSENT) & (self._rows[sequences.item] >= FIRST_ITEM)
        item = last_items(sequences, rows, reach, known)
        return self._tensor(np.where(item == ABSENT, 0, self._rows[item]).astype(np.float32))

    def _tensor(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._model.device)


def event_inputs(
    model: SequenceModel, sequences: Sequences, rows: Int64, vocab: torch.Tensor, vectors: torch.Tensor
) -> torch.Tensor:
    """Return the model's inputs for these rows, float32[n, input_dim].

    `vocab` int64[C] and `vectors` float32[C, item_dim] give each catalogue item's row in the vocabulary and its vector.
    """
    item = torch.from_numpy(sequences.item[rows]).to(vectors.device)
    return joined_inputs(model, sequences, rows, item, torch.where(item == ABSENT, NO_ITEM, vocab[item]), vectors[item])


def joined_inputs(
    model: SequenceModel,
    sequences: Sequences,
    rows: Int64,
    item: torch.Tensor,
    vocab_index: torch.Tensor,
    item_vec: torch.Tensor,
) -> torch.Tensor:
    """Join item vectors with the other columns of these rows; where `item` is ABSENT the vector is zero.

    The tensors are on the model's device, as is the result.
    """
    text = sequences.text[rows]
    has_text = text != ABSENT
    said = None
    if has_text.any():
        said = np.zeros((len(rows), model.config.content_dim), dtype=np.float32)
        said[has_text] = sequences.texts[text[has_text]]
    return model.inputs(
        torch.where((item == ABSENT)[:, None], 0.0, item_vec),
        vocab_index,
        torch.from_numpy(sequences.action[rows]).to(item.device),
        torch.from_numpy(sequences.time[rows]).to(item.device),
        None if said is None else torch.from_numpy(said).to(item.device),
        None if said is None else torch.from_numpy(has_text).to(item.device),
    )


def vocabulary_rows(catalogue: Catalogue, items: Sequence[str]) -> Int64:
    """Return int64[C]: each catalogue item's row in the vocabulary, UNKNOWN_ITEM where it has none.

    `items` are those of the vocabulary in order, the first of them in row FIRST_ITEM, as a card lists them.
    """
    row = {item: FIRST_ITEM + at for at, item in enumerate(items)}
    return np.array([row.get(item, UNKNOWN_ITEM) for item in catalogue.ids], dtype=np.int64)
