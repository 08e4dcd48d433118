"""The recurrent next-action model: one step per event, heads that read the user's state.

A GRU (Cho et al. 2014) or an LSTM (Hochreiter and Schmidhuber 1997) over event vectors, with the tied output
embedding of GRU4Rec's successors (Hidasi and Karatzoglou 2018): an item enters and is scored by one and the same
vector, an id embedding plus a projection of its content. An item that was never trained on has the content part
alone, which training prepares by dropping ids at random (DropoutNet, Volkovs et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

PADDING_ITEM: Final = 0
UNKNOWN_ITEM: Final = 1
NO_ITEM: Final = 2
FIRST_ITEM: Final = 3
"""Row of the first item of the vocabulary; the rows before it mean padding, an unknown item and no item at all."""

PADDING_ACTION: Final = 0
UNKNOWN_ACTION: Final = 1
FIRST_ACTION: Final = 2
"""Index of the first known action; before it stand padding and any action the model never saw."""


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """Shape of a sequence model. `n_items` counts the vocabulary's rows with the three reserved ones."""

    cell: Literal["gru", "lstm"]
    actions: tuple[str, ...]
    n_items: int
    time_dim: int
    item_dim: int = 64
    hidden_dim: int = 256
    content_dim: int = 384
    action_dim: int = 16
    kind_dim: int = 8
    event_content_dim: int = 32
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse shapes that no model can have. Raises ValueError naming the field and the value."""
        if self.cell not in ("gru", "lstm"):
            raise ValueError(f"cell is {self.cell!r}; it must be 'gru' or 'lstm'")
        if not self.actions or len(set(self.actions)) != len(self.actions) or "" in self.actions:
            raise ValueError(f"actions are {list(self.actions)!r}; they must be one or more different, non-empty names")
        if self.n_items < FIRST_ITEM:
            raise ValueError(f"n_items is {self.n_items}; the {FIRST_ITEM} reserved rows are counted, so at least that")
        widths = ("time_dim", "item_dim", "hidden_dim", "content_dim", "action_dim", "kind_dim", "event_content_dim")
        for name in widths:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def input_dim(self) -> int:
        """Width of one event's input to the recurrent cell."""
        return self.item_dim + self.kind_dim + self.action_dim + self.time_dim + self.event_content_dim


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
        self.action_embedding = nn.Embedding(FIRST_ACTION + len(config.actions), config.action_dim)
        self.event_content = nn.Linear(config.content_dim, config.event_content_dim)
        cell = nn.GRU if config.cell == "gru" else nn.LSTM
        self.recurrent: nn.GRU | nn.LSTM = cell(config.input_dim, config.hidden_dim)
        self.to_query = nn.Linear(config.hidden_dim, config.item_dim)
        self.to_actions = nn.Linear(config.hidden_dim, len(config.actions))
        self.dropout = nn.Dropout(config.dropout)
        self.nothing_said: Tensor
        self.register_buffer("nothing_said", torch.zeros(1, config.event_content_dim), persistent=False)
        nn.init.normal_(self.item_embedding.weight, std=config.item_dim**-0.5)
        nn.init.normal_(self.item_content.weight, std=config.item_dim**-0.5)
        nn.init.zeros_(self.id_bias.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and everything that is given to the model must be."""
        return self.to_query.weight.device

    def state_spec(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of one user's state; all are float32, and a new user's are zero."""
        names = ("h",) if self.config.cell == "gru" else ("h", "c")
        return dict.fromkeys(names, (self.config.hidden_dim,))

    def initial_state(self, users: int) -> dict[str, Tensor]:
        """Return the state of `users` users without events."""
        weight = self.to_query.weight
        return {name: weight.new_zeros((users, *shape)) for name, shape in self.state_spec().items()}

    def initial_hidden(self) -> Tensor:
        """Return the hidden vector, float32[1, hidden_dim], of a user without events."""
        return self.hidden(self.initial_state(1))

    def hidden(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return what the heads read, float32[users, hidden_dim]; after a scan it equals the user's last output row."""
        return state["h"]

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
        `has_event_content` bool[n]; both None where no event has any.
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
        done = F.embedding(action, self.action_embedding.weight)
        if event_content is None or has_event_content is None:
            said = self.nothing_said.expand(item_inputs.shape[0], -1)
        else:
            said = torch.where(has_event_content[:, None], self.event_content(event_content), 0.0)
        return torch.cat((item_inputs, done, time, said), dim=1)

    def scan(self, x: Tensor, lengths: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Apply each user's events in order; return every event's hidden vector and the users' new states.

        `x` float32[n, input_dim] holds user 0's rows in order, then user 1's, and so on; `lengths` int64[U] sums to
        n; `state` as `state_spec` says with U rows. Returns float32[n, hidden_dim] in the order of `x`, and the new
        state; a user with length 0 keeps the old one. Equal to one step per event, to 1e-5.
        """
        if x.shape[0] == 0:
            return x.new_zeros((0, self.config.hidden_dim)), dict(state)
        lengths = lengths.cpu()
        if x.shape[0] == lengths.shape[0] and int(lengths.min()) == 1:
            return self._step(x, state)
        return self._scan_packed(x, lengths, state)

    def _step(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        weights: tuple[Tensor, Tensor, Tensor, Tensor] = self.recurrent.all_weights[0]  # type: ignore[assignment]
        x = self._dropped(x)
        if self.config.cell == "gru":
            h = torch.gru_cell(x, state["h"], *weights)
            return h, {"h": h}
        h, c = torch.lstm_cell(x, (state["h"], state["c"]), *weights)
        return h, {"h": h, "c": c}

    def _scan_packed(self, x: Tensor, lengths: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        # The packed layout is built directly: step by step, the longest user first, without a padded copy in between.
        order = torch.argsort(lengths, descending=True, stable=True)
        active = order[: int((lengths > 0).sum())]
        batch_sizes = torch.bincount(lengths, minlength=int(lengths.max()) + 1).flip(0).cumsum(0).flip(0)[1:]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.shape[0])
        user = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths)
        step = torch.arange(x.shape[0]) - (lengths.cumsum(0) - lengths)[user]
        packed_row = (batch_sizes.cumsum(0) - batch_sizes)[step] + rank[user]
        source = torch.empty_like(packed_row)
        source[packed_row] = torch.arange(x.shape[0])

        device = x.device
        active, source, packed_row = active.to(device), source.to(device), packed_row.to(device)
        packed = PackedSequence(self.dropout(x[source]), batch_sizes)
        start = {name: tensor[active][None] for name, tensor in state.items()}
        if self.config.cell == "gru":
            output, h = self.recurrent(packed, start["h"])
            end = {"h": h}
        else:
            output, (h, c) = self.recurrent(packed, (start["h"], start["c"]))
            end = {"h": h, "c": c}
        advanced = {name: tensor.index_copy(0, active, end[name][0]) for name, tensor in state.items()}
        return output.data[packed_row], advanced

    def query(self, hidden: Tensor) -> Tensor:
        """Return the user embedding, float32[n, item_dim]; an item's logit is query . item_vector + item_bias."""
        return F.linear(self._dropped(hidden), self.to_query.weight, self.to_query.bias)

    def action_logits(self, hidden: Tensor) -> Tensor:
        """Return float32[n, len(actions)], logits of the next event's action over the known actions."""
        return F.linear(self._dropped(hidden), self.to_actions.weight, self.to_actions.bias)

    def _dropped(self, x: Tensor) -> Tensor:
        # Calling a module costs more than the step of one user; when serving there is nothing to drop.
        return self.dropout(x) if self.training else x
