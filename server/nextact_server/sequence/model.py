"""The next-action model: one step per event, heads that read the user's state.

A recurrent cell over event vectors, with the tied output embedding of GRU4Rec's successors (Hidasi and Karatzoglou
2018): an item enters and is scored by one and the same vector, an id embedding plus a projection of its content. An
item that was never trained on has the content part alone, which training prepares by dropping ids at random
(DropoutNet, Volkovs et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextact_server.sequence.cells import build_cell
from nextact_server.sequence.cells.packing import pack
from nextact_server.sequence.config import FIRST_ACTION, FIRST_ITEM, SequenceConfig
from nextact_server.sequence.prior import Prior
from nextact_server.sequence.survival import BINS

RECENT: Final = "recent"
"""Name of the state tensor that holds a user's last items."""


class SequenceModel(nn.Module):
    """Advances users' states by events and reads item, action and user vectors from them.

    A state is a dict of float32 tensors, one row per user, named and shaped by `state_spec`. All methods are pure:
    they change neither the model nor what they are given.
    """

    def __init__(self, config: SequenceConfig) -> None:
        """Build the model with fresh weights drawn from torch's global generator."""
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(config.n_items, config.item_dim)
        self.item_content = nn.Linear(config.content_dim, config.item_dim, bias=False)
        self.id_bias = nn.Embedding(config.n_items, 1)
        self.content_bias = nn.Linear(config.content_dim, 1)
        self.kind_embedding = nn.Embedding(FIRST_ITEM + 1, config.kind_dim)
        if config.actions:
            self.action_embedding = nn.Embedding(FIRST_ACTION + len(config.actions), config.action_dim)
            self.to_actions = nn.Linear(config.output_dim, len(config.actions))
        self.event_content = nn.Linear(config.content_dim, config.event_content_dim)
        self.cell = build_cell(config)
        self.to_query = nn.Linear(config.output_dim, config.item_dim)
        if config.last_item_skip:
            self.last_item = nn.Embedding(config.n_items, config.item_dim)
            nn.init.zeros_(self.last_item.weight)
        if config.horizon_s is not None:
            self.to_next = nn.Linear(config.output_dim, BINS)
        self.prior = Prior(config.prior, config.n_items) if config.prior else None
        self.dropout = nn.Dropout(config.input_dropout)
        self.nothing_said: Tensor
        self.register_buffer("nothing_said", torch.zeros(1, config.event_content_dim), persistent=False)
        nn.init.normal_(self.item_embedding.weight, std=config.item_dim**-0.5)
        nn.init.normal_(self.item_content.weight, std=config.item_dim**-0.5)
        nn.init.zeros_(self.id_bias.weight)

    def add_prior(self, prior: Prior) -> None:
        """Mix the counted transitions of `prior` into the scores from now on."""
        self.config = replace(self.config, prior=prior.config)
        self.prior = prior

    def calibrate(self, *, action_temperature: float) -> None:
        """Divide the action logits by `action_temperature` from now on (Guo et al. 2017)."""
        self.config = replace(self.config, action_temperature=action_temperature)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and everything that is given to the model must be."""
        return self.to_query.weight.device

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of one user's state; all are float32, and a new user's are zero.

        The cell's own, and RECENT where the heads need to know the user's last items: vocabulary rows, the last first,
        0 where there were fewer.
        """
        spec = self.cell.state_spec()
        return spec | {RECENT: (self.config.remembered_items,)} if self.config.remembered_items else spec

    def initial_state(self, users: int) -> dict[str, Tensor]:
        """Return the state of `users` users without events."""
        weight = self.to_query.weight
        return {name: weight.new_zeros((users, *shape)) for name, shape in self.state_spec().items()}

    def initial_hidden(self) -> Tensor:
        """Return the hidden vector, float32[1, output_dim], of a user without events."""
        return self.hidden(self.initial_state(1))

    def hidden(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return what the heads read, float32[users, output_dim]; after a scan it equals the user's last output row."""
        return self.cell.hidden(state)

    def item_vectors(self, vocab_index: Tensor, content: Tensor, has_content: Tensor) -> Tensor:
        """Return float32[n, item_dim]: id embedding, where trained, plus projected content, where there is any.

        `vocab_index` int64[n], `content` float32[n, content_dim], `has_content` bool[n]. Rows without content are
        ignored, whatever they hold.
        """
        by_id = torch.where((vocab_index >= FIRST_ITEM)[:, None], self.item_embedding(vocab_index), 0.0)
        return torch.where(has_content[:, None], by_id + self.item_content(content), by_id)

    def item_bias(self, vocab_index: Tensor, content: Tensor, has_content: Tensor) -> Tensor:
        """Return float32[n], added to an item's score: learned per trained id, else estimated from content."""
        default = self.content_bias.bias
        estimated = torch.where(has_content, self.content_bias(content).squeeze(-1), default)
        return torch.where(vocab_index >= FIRST_ITEM, self.id_bias(vocab_index).squeeze(-1), estimated)

    def inputs(
        self,
        item_vec: Tensor,
        vocab_index: Tensor,
        action: Tensor,
        time: Tensor,
        event_content: Tensor | None = None,
        has_event_content: Tensor | None = None,
    ) -> Tensor:
        """Join what is known of each event into float32[n, input_dim].

        `item_vec` float32[n, item_dim] from `item_vectors`; `vocab_index` int64[n], of which only the kind counts
        here (padding, unknown, none, known); `action` int64[n], 0 padding, 1 unknown, then `actions` in order; `time`
        float32[n, time_dim]; `event_content` float32[n, content_dim] of the event's own text or image, read where
        `has_event_content` bool[n]; both None where no event has any. A model without actions or times ignores them.
        """
        item = self.item_inputs(item_vec, vocab_index)
        return self.event_inputs(item, action, time, event_content, has_event_content)

    def item_inputs(self, item_vec: Tensor, vocab_index: Tensor) -> Tensor:
        """Return the item's part of `inputs`, float32[n, item_dim + kind_dim]; it does not depend on the event."""
        kind = F.embedding(vocab_index.clamp(max=FIRST_ITEM), self.kind_embedding.weight)
        return torch.cat((item_vec, kind), dim=1)

    def event_inputs(
        self,
        item_inputs: Tensor,
        action: Tensor,
        time: Tensor,
        event_content: Tensor | None = None,
        has_event_content: Tensor | None = None,
    ) -> Tensor:
        """Return `inputs` with the item's part, `item_inputs`, given; the rest as there."""
        if event_content is None or has_event_content is None:
            said = self.nothing_said.expand(item_inputs.shape[0], -1)
        else:
            said = torch.where(has_event_content[:, None], self.event_content(event_content), 0.0)
        parts = [item_inputs]
        if self.config.actions:
            parts.append(F.embedding(action, self.action_embedding.weight))
        if self.config.uses_time:
            parts.append(time)
        return torch.cat((*parts, said), dim=1)

    def scan(self, x: Tensor, lengths: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply each user's events in order; return every event's hidden vector and the users' new states.

        `x` float32[n, input_dim] holds user 0's rows in order, then user 1's, and so on; `lengths` int64[U] sums to
        n; `state` as `state_spec` says with U rows. Returns float32[n, output_dim] in the order of `x`, and the new
        state; a user with length 0 keeps the old one, and RECENT is left as it was (see `recent.remember`). Equal to
        one step per event, to 1e-5.
        """
        if x.shape[0] == 0:
            return x.new_zeros((0, self.config.output_dim)), dict(state)
        lengths = lengths.cpu()
        if x.shape[0] == lengths.shape[0] and int(lengths.min()) == 1:
            return self.step(state, x)
        packing = pack(lengths, x.device)
        own = self.cell.state_spec()
        start = {name: state[name][packing.users] for name in own}
        output, end = self.cell.scan(self._dropped(x[packing.source]), packing, start)
        advanced = {name: state[name].index_copy(0, packing.users, end[name]) for name in own}
        return output[packing.target], dict(state) | advanced

    def step(self, state: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply one event per user, `x` float32[users, input_dim]; return hidden vectors and new states as `scan`."""
        hidden, advanced = self.cell.step(state, self._dropped(x))
        return hidden, dict(state) | advanced

    def query(self, hidden: Tensor, recent: Tensor | None = None) -> Tensor:
        """Return the user embedding, float32[n, item_dim]; an item's logit is query . item_vector + item_bias.

        `recent` float32[n, reach] as the states name it, read by a model with a skip from the last item.
        """
        query = F.linear(hidden, self.to_query.weight, self.to_query.bias)
        if self.config.last_item_skip:
            assert recent is not None
            query = query + F.embedding(recent[:, 0].long(), self.last_item.weight)
        return query

    def log_scores(self, logits: Tensor, recent: Tensor | None, columns: Tensor | None = None) -> Tensor:
        """Return the items' log scores, float32[n, C], of logits that are -inf where an item is not offered.

        With a prior they are log probabilities over what is offered, else the logits themselves; see `Prior.mix`.
        """
        if self.prior is None:
            return logits
        assert recent is not None
        return self.prior.mix(logits, recent, columns)

    def action_logits(self, hidden: Tensor) -> Tensor:
        """Return float32[n, len(actions)], calibrated logits of the next event's action over the known actions."""
        if not self.config.actions:
            return hidden.new_zeros((hidden.shape[0], 0))
        logits = F.linear(hidden, self.to_actions.weight, self.to_actions.bias)
        return logits / self.config.action_temperature

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Return float32[n, BINS], hazard logits of the time to the next event, of a model with a horizon."""
        return F.linear(hidden, self.to_next.weight, self.to_next.bias)

    def _dropped(self, x: Tensor) -> Tensor:
        # Calling a module costs more than the step of one user; when serving there is nothing to drop.
        return self.dropout(x) if self.training else x
