"""The loss of one batch of windows: next item, next action and time to the next event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from nextact_server.sequence import survival
from nextact_server.sequence.config import FIRST_ACTION, FIRST_ITEM, NO_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.model import SequenceModel
from nextact_server.sequence.survival import bin_edges, until_next
from nextact_server.training.baselines import popularity
from nextact_server.training.config import FitSettings
from nextact_server.training.history import first_seen, runs
from nextact_server.training.scoring import joined_inputs
from nextact_server.training.sequences import ABSENT, Int64, Sequences
from nextact_server.training.softmax import Removed, softmax_loss
from nextact_server.training.task import Task
from nextact_server.training.windows import Windows


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean losses of a batch, scalars; zero where the model has no such head or the batch no such target."""

    item: torch.Tensor
    action: torch.Tensor
    next: torch.Tensor


class BatchLoss:
    """Foretells each event of a batch from those before it in its window, and says how badly."""

    def __init__(
        self,
        model: SequenceModel,
        task: Task,
        train: Sequences,
        vocab: Int64,
        settings: FitSettings,
        end_us: Int64 | int,
    ) -> None:
        """Train on the events of `train`.

        The task's items have the vocabulary rows `vocab` int64[C]. `end_us` is when the watching ended: see
        `survival.until_next`.
        """
        self._model = model
        self._task = task
        self._settings = settings
        self._device = model.device
        self._train = train
        horizon = model.config.horizon_s
        self._edges = None if horizon is None else bin_edges(horizon)
        self._until = until_next(train.starts, train.time_us, end_us)
        self._vocab = self._tensor(vocab)
        self._content = self._tensor(task.catalogue.content)
        self._has_content = self._tensor(task.catalogue.has_content)
        self._popularity = torch.from_numpy(popularity(train, train.item != ABSENT, len(vocab))).float()
        met = torch.from_numpy(np.flatnonzero(self._popularity > 0)).to(self._device)
        self._met = None if len(met) == len(vocab) else _Drawn(met, torch.zeros(len(met), device=self._device))
        self.generator = torch.Generator().manual_seed(settings.seed)

    def __call__(self, windows: Windows) -> Losses:
        """Return the losses of the events that the windows' rows, and the starts of first windows, foretell."""
        model, sequences = self._model, self._train
        lengths = windows.stop - windows.start
        rows, slot = runs(windows.start, windows.stop)
        owner = windows.user[slot]
        vectors = self._item_vectors()
        x, kind = self._inputs(sequences, rows, vectors)
        is_half = self._settings.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_half):
            hidden, _ = model.scan(x, torch.from_numpy(lengths), model.initial_state(len(lengths)))

        # The hidden vector after a row foretells the next one; a user's first row is foretold by the initial state.
        followed = rows + 1 < sequences.starts[owner + 1]
        opening = windows.start == sequences.starts[windows.user]
        targets = np.concatenate((rows[followed] + 1, windows.start[opening]))
        slots = np.concatenate((slot[followed], np.flatnonzero(opening)))
        after = self._tensor(followed)
        openings = int(opening.sum())
        before = torch.cat((hidden[after], model.initial_hidden().expand(openings, -1)))
        last = self._last_items(slot, kind)[after]
        recent = torch.cat((last, last.new_zeros(openings)))

        wanted = self._tensor(sequences.item_target[targets])
        told = model.query(before[wanted], recent[wanted, None])
        return Losses(
            item=self._item_loss(sequences, windows, slots, targets, told, vectors),
            action=self._action_loss(sequences, before, targets),
            next=self._next_loss(hidden, rows),
        )

    def _item_vectors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the catalogue's vectors, float32[C, item_dim] each: whole, by content alone, by id alone."""
        nothing = torch.zeros_like(self._has_content)
        by_id = self._model.item_vectors(self._vocab, self._content, nothing)
        if not bool(self._has_content.any()):
            return by_id, by_id, by_id
        nobody = torch.full_like(self._vocab, UNKNOWN_ITEM)
        by_content = self._model.item_vectors(nobody, self._content, self._has_content)
        return by_id + by_content, by_content, by_id

    def _inputs(
        self, sequences: Sequences, rows: Int64, vectors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows' inputs and, int64[n], the vocabulary row that each one's item passes for."""
        whole, by_content, by_id = vectors
        item = self._tensor(sequences.item[rows])
        chance = self._chance(len(rows))
        lost = chance < self._settings.unknown_rate
        nameless = chance < self._settings.unknown_rate + self._settings.input_id_dropout
        nameless = lost | (nameless & self._has_content[item])
        mute = self._chance(len(rows)) < self._settings.content_dropout
        vector = torch.where(mute[:, None], by_id[item], whole[item])
        vector = torch.where(nameless[:, None], by_content[item], vector)
        vector = torch.where(lost[:, None], 0.0, vector)
        kind = torch.where(nameless, UNKNOWN_ITEM, self._vocab[item])
        kind = torch.where(item == ABSENT, NO_ITEM, kind)
        return joined_inputs(self._model, sequences, rows, item, kind, vector), kind

    def _last_items(self, slot: Int64, kind: torch.Tensor) -> torch.Tensor:
        """Return, float32[n], the vocabulary row of the last known item of the window up to each row; 0 for none."""
        window = self._tensor(slot)
        row = torch.arange(len(slot), device=self._device)
        latest = torch.where(kind >= FIRST_ITEM, row, -1).cummax(0).values
        there = (latest >= 0) & (window[latest.clamp(min=0)] == window)
        return torch.where(there, kind[latest.clamp(min=0)], 0).float()

    def _item_loss(
        self,
        sequences: Sequences,
        windows: Windows,
        slots: Int64,
        targets: Int64,
        query: torch.Tensor,
        vectors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        asked = sequences.item_target[targets]
        if not asked.any():
            return query.sum() * 0.0
        whole, by_content, by_id = vectors
        # Some candidates compete by one part of their vector, so that those which have no other learn to be comparable.
        nameless = self._has_content & (self._chance(len(whole)) < self._settings.output_id_dropout)
        mute = (self._vocab >= FIRST_ITEM) & (self._chance(len(whole)) < self._settings.content_dropout)
        candidates = torch.where(mute[:, None], by_id, whole)
        candidates = torch.where(nameless[:, None], by_content, candidates)
        vocab = torch.where(nameless, UNKNOWN_ITEM, self._vocab)
        bias = self._model.item_bias(vocab, self._content, self._has_content)
        goal = self._tensor(sequences.item[targets[asked]])
        drawn = self._drawn(goal)
        if drawn is not None:
            column = torch.full((len(whole),), -1, device=self._device)
            column[drawn.items] = torch.arange(len(drawn.items), device=self._device)
            goal, candidates, bias = column[goal], candidates[drawn.items], bias[drawn.items] - drawn.log_chance
        removed = self._removed(sequences, windows, slots[asked], targets[asked]) if self._task.exclude_seen else None
        if removed is not None and drawn is not None:
            removed = Removed(removed.first[:, drawn.items].contiguous(), removed.owner, removed.number)
        dtype = torch.bfloat16 if self._settings.precision == "bfloat16" else torch.float32
        smoothing = self._settings.label_smoothing
        return softmax_loss(query, candidates, bias, goal, removed=removed, smoothing=smoothing, dtype=dtype)

    def _drawn(self, goal: torch.Tensor) -> _Drawn | None:
        """Draw candidates by popularity; the batch's own goals are always among them.

        Items that never occur are not among the candidates: to lose always would teach that what is new is disliked.
        """
        count = self._settings.sampled_items
        if not count:
            return self._met
        drawn = torch.multinomial(self._popularity, count, replacement=True, generator=self.generator)
        items = torch.unique(torch.cat((drawn.to(self._device), goal)))
        # logQ (Bengio and Senecal 2008): an item's chance to be here at all, drawn or as somebody's goal.
        absent = torch.log1p(-self._popularity.to(self._device)[items].double().clamp(max=1.0 - 1e-9)) * (
            count + len(goal)
        )
        return _Drawn(items, torch.log(-torch.expm1(absent)).float().clamp(min=-30.0))

    def _removed(self, sequences: Sequences, windows: Windows, slots: Int64, targets: Int64) -> Removed:
        """Return the items of the users' events before each target, those before its window included."""
        begin = sequences.starts[windows.user]
        first = first_seen(sequences, begin, windows.stop, len(self._vocab))
        place = (targets - begin[slots]).astype(np.int32)
        return Removed(self._tensor(first), self._tensor(slots), self._tensor(place))

    def _action_loss(self, sequences: Sequences, before: torch.Tensor, targets: Int64) -> torch.Tensor:
        action = self._tensor(sequences.action[targets] - FIRST_ACTION)
        if not self._task.actions or not bool((action >= 0).any()):
            return before.sum() * 0.0
        return F.cross_entropy(
            self._model.action_logits(before), torch.where(action < 0, -100, action), ignore_index=-100
        )

    def _next_loss(self, hidden: torch.Tensor, rows: Int64) -> torch.Tensor:
        if self._edges is None:
            return hidden.sum() * 0.0
        gap, censored = (self._tensor(column[rows]) for column in self._until)
        return survival.loss(self._model.next_logits(hidden), gap, censored, self._edges)

    def _chance(self, count: int) -> torch.Tensor:
        return torch.rand(count, generator=self.generator).to(self._device)

    def _tensor(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)


@dataclass(frozen=True, slots=True)
class _Drawn:
    items: torch.Tensor
    log_chance: torch.Tensor
