"""The shape of a sequence model, and what the first rows of its vocabularies mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from nextact_server.sequence.survival import bin_edges

PADDING_ITEM: Final = 0
UNKNOWN_ITEM: Final = 1
NO_ITEM: Final = 2
FIRST_ITEM: Final = 3
"""Row of the first item of the vocabulary; the rows before it mean padding, an unknown item and no item at all."""

PADDING_ACTION: Final = 0
UNKNOWN_ACTION: Final = 1
FIRST_ACTION: Final = 2
"""Index of the first known action; before it stand padding and any action the model never saw."""

MOST_ITEMS: Final = 2**24
"""Vocabulary rows that a state can name: it holds them as float32, which counts exactly as far as this."""

CellName = Literal["gru", "lstm", "lru", "gated", "sasrec"]


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """How counted transitions join the next-item scores: see `prior.py`.

    `weight` is their part of the probability, `decay` what each earlier item counts less, `reach` how many of the last
    items take part, `entries` how many transitions are kept in all.
    """

    weight: float
    decay: float
    reach: int
    entries: int

    def __post_init__(self) -> None:
        """Raise ValueError naming the field and the value."""
        if not 0.0 < self.weight < 1.0:
            raise ValueError(f"prior.weight is {self.weight}; it must be between 0 and 1")
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"prior.decay is {self.decay}; it must be in [0, 1]")
        if self.reach < 1:
            raise ValueError(f"prior.reach is {self.reach}; it must be at least 1")
        if self.entries < 0:
            raise ValueError(f"prior.entries is {self.entries}; it must be at least 0")


@dataclass(frozen=True, slots=True)
class SequenceConfig:
    """Shape of a sequence model. `n_items` counts the vocabulary's rows with the three reserved ones.

    `hidden_dim` is the width of the recurrent state; "lru", "gated" and "sasrec" have `layers` blocks around rows of
    `model_dim`, "sasrec" reads the last `window` events with `attention_heads`. Without `uses_time` an event's times
    are ignored; without `actions` its action is ignored and none is foretold; with `horizon_s` the
    time to the next event is foretold (see `survival.py`). `action_temperature` divides the action logits (Guo et al.
    2017).
    """

    cell: CellName
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
    input_dropout: float = 0.2
    layers: int = 1
    model_dim: int = 128
    feed_forward: int = 2
    window: int = 50
    attention_heads: int = 2
    uses_time: bool = True
    last_item_skip: bool = False
    horizon_s: float | None = None
    action_temperature: float = 1.0
    prior: PriorConfig | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that no model can have. Raises ValueError naming the field and the value."""
        cells = get_args(CellName)
        if self.cell not in cells:
            raise ValueError(f"cell is {self.cell!r}; it must be one of {', '.join(map(repr, cells))}")
        if len(set(self.actions)) != len(self.actions) or "" in self.actions:
            raise ValueError(f"actions are {list(self.actions)!r}; they must be different, non-empty names")
        if not FIRST_ITEM <= self.n_items <= MOST_ITEMS:
            raise ValueError(
                f"n_items is {self.n_items}; the {FIRST_ITEM} reserved rows are counted, so at least that, and at most "
                f"{MOST_ITEMS}"
            )
        widths = ("time_dim", "item_dim", "hidden_dim", "content_dim", "action_dim", "kind_dim", "event_content_dim")
        for name in (*widths, "layers", "model_dim", "feed_forward", "window", "attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.model_dim % self.attention_heads:
            raise ValueError(f"model_dim is {self.model_dim}; attention_heads, {self.attention_heads}, must divide it")
        for name in ("dropout", "input_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if self.horizon_s is not None:
            bin_edges(self.horizon_s)
        if not 0.0 < self.action_temperature < float("inf"):
            raise ValueError(f"action_temperature is {self.action_temperature}; it must be above 0 and finite")

    @property
    def input_dim(self) -> int:
        """Width of one event's input to the recurrent cell."""
        time = self.time_dim if self.uses_time else 0
        action = self.action_dim if self.actions else 0
        return self.item_dim + self.kind_dim + action + time + self.event_content_dim

    @property
    def output_dim(self) -> int:
        """Width of the hidden vector that the heads read."""
        return self.hidden_dim if self.cell in ("gru", "lstm") else self.model_dim

    @property
    def remembered_items(self) -> int:
        """How many of a user's last items the state names."""
        return max(self.prior.reach if self.prior else 0, int(self.last_item_skip))
