"""One way to judge anything that foretells: a model, or counts, event by event over the ends of users' histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from nextact_server.sequence.model import FIRST_ACTION, NO_ITEM, UNKNOWN_ITEM, SequenceModel
from nextact_server.training.baselines import Counts, last_actions, last_items
from nextact_server.training.metrics import target_ranks
from nextact_server.training.sequences import ABSENT, Bool, Catalogue, Int64, Sequences

Scores: TypeAlias = npt.NDArray[np.float32]


class Scorer(Protocol):
    """Foretells each of a user's rows from those before it."""

    def __call__(self, sequences: Sequences, user: int, rows: Int64) -> tuple[Scores | None, Int64 | None]:
        """Return item scores float32[n, C] and the likeliest action int64[n], None for what it does not foretell."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Outcome per judged event. `item_user` and `rank` int64[m] are of next-item events, the others of all events."""

    item_user: Int64
    rank: Int64
    action_user: Int64
    action_hit: Bool


def first_judged(sequences: Sequences, part: float) -> Int64:
    """Return, int64[U], the first row of each user's last `part` of events; at least one event, the last, is judged."""
    judged = np.maximum((sequences.lengths * part + 1e-9).astype(np.int64), 1)
    return sequences.starts[1:] - judged


def judge(scorer: Scorer, sequences: Sequences, first: Int64, *, exclude_seen: bool) -> Judgement:
    """Let `scorer` foretell each row from `first[user]` on, and rank what came over the whole catalogue.

    With `exclude_seen` the items of all the user's earlier events are removed; a target among them is unranked, as it
    would be when served.
    """
    item_user, ranks, action_user, hits = [], [], [], []
    for user in range(len(sequences.users)):
        rows = np.arange(first[user], sequences.starts[user + 1])
        scores, actions = scorer(sequences, user, rows)
        if scores is not None:
            wanted = sequences.item_target[rows]
            allowed = scores[wanted]
            targets = rows[wanted]
            if exclude_seen:
                allowed[seen_before(sequences, np.full(len(targets), user), targets, scores.shape[1])] = -np.inf
            ranks.append(target_ranks(allowed, sequences.item[targets]))
            item_user.append(np.full(len(targets), user))
        if actions is not None:
            hits.append(actions == sequences.action[rows])
            action_user.append(np.full(len(rows), user))
    return Judgement(_joined(item_user), _joined(ranks), _joined(action_user), _joined(hits).astype(np.bool_))


def seen_before(sequences: Sequences, user: Int64, rows: Int64, items: int) -> Bool:
    """Return bool[n, items]: which items occur in the events of `user[i]` before row `rows[i]`."""
    seen = np.empty((len(rows), items), dtype=np.bool_)
    for one in np.unique(user):
        own = np.arange(sequences.starts[one], sequences.starts[one + 1])
        own = own[sequences.item[own] != ABSENT][::-1]
        first_row = np.full(items, np.iinfo(np.int64).max)
        first_row[sequences.item[own]] = own  # assigned from the last to the first, so the first occurrence stays
        asked = np.flatnonzero(user == one)
        seen[asked] = first_row < rows[asked, None]
    return seen


class CountScorer:
    """Popularity or first-order Markov scores, and the last action repeated."""

    def __init__(self, counts: Counts, *, markov: bool) -> None:
        """Score by `counts`: by the last next-item event with `markov`, else by popularity."""
        self._counts = counts
        self._markov = markov

    def __call__(self, sequences: Sequences, user: int, rows: Int64) -> tuple[Scores, Int64]:
        """See Scorer."""
        start = int(sequences.starts[user])
        offset = rows - start
        end = int(rows[-1]) + 1
        actions = last_actions(sequences, start, end)[offset]
        if not self._markov:
            return np.tile(_ranked(self._counts.popularity()), (len(rows), 1)), actions
        last = last_items(sequences, start, end)[offset]
        return np.stack([_ranked(self._counts.markov(int(item))) for item in last]), actions


def _ranked(scores: npt.NDArray[np.float64]) -> Scores:
    # float32 cannot hold count + 1e-6 x share; the order of the sums, and their ties, it can.
    ranks: Scores = np.unique(scores, return_inverse=True)[1].astype(np.float32)
    return ranks


class ModelScorer:
    """A sequence model's scores, its item vectors computed once."""

    def __init__(self, model: SequenceModel, catalogue: Catalogue, vocab: Int64) -> None:
        """Score the catalogue, whose items have the rows `vocab` int64[C] in the model's vocabulary."""
        self._model = model
        self._vocab = torch.from_numpy(vocab)
        content, has = torch.from_numpy(catalogue.content), torch.from_numpy(catalogue.has_content)
        with torch.inference_mode():
            self._vectors = model.item_vectors(self._vocab, content, has)
            self._bias = model.item_bias(self._vocab, content, has)

    def __call__(self, sequences: Sequences, user: int, rows: Int64) -> tuple[Scores, Int64]:
        """See Scorer; one scan over the user's whole history, which equals stepping event by event."""
        model = self._model
        start = int(sequences.starts[user])
        past = np.arange(start, int(rows[-1]))
        with torch.inference_mode():
            x = event_inputs(model, sequences, past, self._vocab, self._vectors)
            hidden, _ = model.scan(x, torch.tensor([len(past)]), model.initial_state(1))
            before = torch.cat((model.initial_hidden(), hidden))[torch.from_numpy(rows - start)]
            scores = model.query(before) @ self._vectors.T + self._bias
            actions = model.action_logits(before).argmax(dim=1) + FIRST_ACTION
        return scores.numpy(), actions.numpy()


def event_inputs(
    model: SequenceModel, sequences: Sequences, rows: Int64, vocab: torch.Tensor, vectors: torch.Tensor
) -> torch.Tensor:
    """Return the model's inputs for these rows, float32[n, input_dim].

    `vocab` int64[C] and `vectors` float32[C, item_dim] give each catalogue item's row in the vocabulary and its vector.
    """
    item = torch.from_numpy(sequences.item[rows])
    return joined_inputs(model, sequences, rows, item, torch.where(item == ABSENT, NO_ITEM, vocab[item]), vectors[item])


def joined_inputs(
    model: SequenceModel,
    sequences: Sequences,
    rows: Int64,
    item: torch.Tensor,
    vocab_index: torch.Tensor,
    item_vec: torch.Tensor,
) -> torch.Tensor:
    """Join item vectors with the other columns of these rows; where `item` is ABSENT the vector is zero."""
    text = sequences.text[rows]
    has_text = text != ABSENT
    said = np.zeros((len(rows), model.config.content_dim), dtype=np.float32)
    said[has_text] = sequences.texts[text[has_text]]
    return model.inputs(
        torch.where((item == ABSENT)[:, None], 0.0, item_vec),
        vocab_index,
        torch.from_numpy(sequences.action[rows]),
        torch.from_numpy(sequences.time[rows]),
        torch.from_numpy(said),
        torch.from_numpy(has_text),
    )


def vocabulary_rows(catalogue: Catalogue, items: dict[str, int]) -> Int64:
    """Return int64[C]: each catalogue item's row in the vocabulary `items`, UNKNOWN_ITEM where it has none."""
    return np.array([items.get(item, UNKNOWN_ITEM) for item in catalogue.ids], dtype=np.int64)


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
