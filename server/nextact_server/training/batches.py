"""Windows of users' sequences, and the loss of one batch of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from nextact_server.sequence.model import FIRST_ACTION, FIRST_ITEM, NO_ITEM, UNKNOWN_ITEM, SequenceModel
from nextact_server.training.config import FitSettings
from nextact_server.training.scoring import joined_inputs, seen_before
from nextact_server.training.sequences import ABSENT, Catalogue, Int64, Sequences


@dataclass(frozen=True, slots=True)
class Windows:
    """Runs of one user's rows each: rows `start[i]` up to `stop[i]` of user `user[i]`, all int64[w]."""

    user: Int64
    start: Int64
    stop: Int64


def cut(sequences: Sequences, size: int, rng: np.random.Generator) -> Windows:
    """Cut every user's rows into windows of `size`; where the first cut falls is drawn, so that epochs differ."""
    user, start, stop = [], [], []
    for number in range(len(sequences.users)):
        low, high = int(sequences.starts[number]), int(sequences.starts[number + 1])
        cuts = np.arange(low + int(rng.integers(1, size + 1)), high, size)
        edges = np.concatenate(([low], cuts, [high]))
        user.append(np.full(len(edges) - 1, number))
        start.append(edges[:-1])
        stop.append(edges[1:])
    return Windows(*(np.concatenate(parts).astype(np.int64) for parts in (user, start, stop)))


def shuffled(windows: Windows, size: int, rng: np.random.Generator) -> Iterator[Windows]:
    """Yield batches of `size` windows in drawn order."""
    order = rng.permutation(len(windows.user))
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        yield Windows(windows.user[rows], windows.start[rows], windows.stop[rows])


class BatchLoss:
    """Next-item and next-action cross entropy of a batch, over the whole catalogue and all known actions."""

    def __init__(
        self, model: SequenceModel, catalogue: Catalogue, vocab: Int64, settings: FitSettings, *, exclude_seen: bool
    ) -> None:
        """Train on items of vocabulary rows `vocab` int64[C]; with `exclude_seen` those seen are no candidates."""
        self._model = model
        self._vocab = torch.from_numpy(vocab)
        self._content = torch.from_numpy(catalogue.content)
        self._has_content = torch.from_numpy(catalogue.has_content)
        if not settings.use_content:
            self._has_content = torch.zeros_like(self._has_content)
        self._settings = settings
        self._exclude_seen = exclude_seen
        self._generator = torch.Generator().manual_seed(settings.seed)

    def __call__(self, sequences: Sequences, windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean item loss and the mean action loss, both scalars."""
        model = self._model
        lengths = windows.stop - windows.start
        rows = np.concatenate([np.arange(a, b) for a, b in zip(windows.start, windows.stop, strict=True)])
        owner = np.repeat(windows.user, lengths)
        vectors = self._item_vectors()
        x = self._inputs(sequences, rows, vectors)
        hidden, _ = model.scan(x, torch.from_numpy(lengths), model.initial_state(len(lengths)))

        # The hidden vector after a row foretells the next one; a user's first row is foretold by the initial state.
        followed = rows + 1 < sequences.starts[owner + 1]
        opening = windows.start == sequences.starts[windows.user]
        targets = np.concatenate((rows[followed] + 1, windows.start[opening]))
        users = np.concatenate((owner[followed], windows.user[opening]))
        initial = model.initial_hidden().expand(int(opening.sum()), -1)
        before = torch.cat((hidden[torch.from_numpy(followed)], initial))

        action = torch.from_numpy(sequences.action[targets] - FIRST_ACTION)
        action = torch.where(action < 0, -100, action)
        action_loss = F.cross_entropy(model.action_logits(before), action, ignore_index=-100)
        wanted = sequences.item_target[targets]
        item_loss = self._item_loss(
            sequences, before[torch.from_numpy(wanted)], users[wanted], targets[wanted], vectors
        )
        return item_loss, action_loss

    def _item_vectors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the catalogue's vectors, float32[C, item_dim] each: whole, by content alone, by id alone."""
        nobody = torch.full_like(self._vocab, UNKNOWN_ITEM)
        nothing = torch.zeros_like(self._has_content)
        return (
            self._model.item_vectors(self._vocab, self._content, self._has_content),
            self._model.item_vectors(nobody, self._content, self._has_content),
            self._model.item_vectors(self._vocab, self._content, nothing),
        )

    def _inputs(
        self, sequences: Sequences, rows: Int64, vectors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        whole, by_content, by_id = vectors
        item = torch.from_numpy(sequences.item[rows])
        chance = self._chance(len(rows))
        lost = chance < self._settings.unknown_rate
        nameless = chance < self._settings.unknown_rate + self._settings.input_id_dropout
        mute = self._chance(len(rows)) < self._settings.content_dropout
        vector = torch.where(mute[:, None], by_id[item], whole[item])
        vector = torch.where(nameless[:, None], by_content[item], vector)
        vector = torch.where(lost[:, None], 0.0, vector)
        kind = torch.where(nameless, UNKNOWN_ITEM, self._vocab[item])
        kind = torch.where(item == ABSENT, NO_ITEM, kind)
        return joined_inputs(self._model, sequences, rows, item, kind, vector)

    def _item_loss(
        self,
        sequences: Sequences,
        before: torch.Tensor,
        users: Int64,
        targets: Int64,
        vectors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        if len(targets) == 0:
            return before.sum() * 0.0
        model = self._model
        whole, by_content, by_id = vectors
        # Some candidates compete by one part of their vector, so that those which have no other learn to be comparable.
        nameless = self._has_content & (self._chance(len(whole)) < self._settings.output_id_dropout)
        mute = (self._vocab >= FIRST_ITEM) & (self._chance(len(whole)) < self._settings.content_dropout)
        candidates = torch.where(mute[:, None], by_id, whole)
        candidates = torch.where(nameless[:, None], by_content, candidates)
        bias = model.item_bias(torch.where(nameless, UNKNOWN_ITEM, self._vocab), self._content, self._has_content)
        logits = torch.addmm(bias, model.query(before), candidates.T)
        goal = torch.from_numpy(sequences.item[targets])
        if self._exclude_seen:
            seen = torch.from_numpy(seen_before(sequences, users, targets, len(whole)))
            seen[torch.arange(len(targets)), goal] = False
            with torch.no_grad():  # in place and unrecorded: where a logit is -inf, softmax passes no gradient anyway
                logits.masked_fill_(seen, -torch.inf)
        return F.cross_entropy(logits, goal)

    def _chance(self, count: int) -> torch.Tensor:
        return torch.rand(count, generator=self._generator)
