"""The model card: what stands in `card.json` beside the weights, checked when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nextact_server.sequence.config import FIRST_ITEM, SequenceConfig

CARD_FILE = "card.json"


class ModelCardError(ValueError):
    """A card.json that is missing, broken or contradicts itself; the message names the file and the field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Strict):
    """A measured figure with the bounds of its 95 % bootstrap interval over users."""

    value: float
    low: float
    high: float


class DataSource(_Strict):
    """What a model was trained on."""

    name: str
    sha256: str
    events: int = Field(ge=0)
    users: int = Field(ge=0)
    licence: str


class Slice(_Strict):
    """Some of the judged events: `figures` maps a candidate, the model or a baseline, to its estimates there."""

    events: int = Field(ge=0)
    users: int = Field(ge=0)
    figures: dict[str, dict[str, Estimate]]


class Reliability(_Strict):
    """How sure of its likeliest action a candidate was, and how often that came: the means of bins of equal mass."""

    confidence: tuple[float, ...]
    came: tuple[float, ...]
    events: tuple[int, ...]


class Evaluation(_Strict):
    """How a model does beside the baselines, on events it never saw.

    `metrics` and each of `baselines` map a metric to its estimate; `gains` maps "metric over baseline" to the paired
    difference, above zero where the model is better; `best` maps a metric to the baseline that is best by it. `slices`
    maps what events are told apart by to the parts, `reliability` a candidate to its calibration, and `settings` a
    baseline to the parameters that were chosen for it.
    """

    protocol: str
    users: int = Field(ge=0)
    events: int = Field(ge=0)
    metrics: dict[str, Estimate]
    baselines: dict[str, dict[str, Estimate]]
    gains: dict[str, Estimate]
    best: dict[str, str] = Field(default_factory=dict)
    slices: dict[str, dict[str, Slice]] = Field(default_factory=dict)
    reliability: dict[str, Reliability] = Field(default_factory=dict)
    settings: dict[str, dict[str, float]] = Field(default_factory=dict)


class ModelCard(_Strict):
    """Everything about a version that is not a weight. `items[i]` is the id of vocabulary row `FIRST_ITEM + i`."""

    name: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(min_length=1)]
    config: SequenceConfig
    items: tuple[str, ...]
    item_counts: tuple[int, ...]
    exclude_seen_default: bool
    state_bytes_per_user: int = Field(gt=0)
    data: DataSource
    split: str
    tie_rule: str
    excluded_users: tuple[str, ...] = ()
    training_users: tuple[str, ...] | None = None
    seed: int
    date: str
    encoders: dict[str, str]
    licences: dict[str, str]
    training: dict[str, float | int | str | bool] = Field(default_factory=dict)
    validation: dict[str, float] = Field(default_factory=dict)
    evaluation: Evaluation | None = None
    weights_sha256: str = ""

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions the model knows, in the order of its action head."""
        return self.config.actions

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ModelCard:
        rows = FIRST_ITEM + len(self.items)
        if self.config.n_items != rows:
            raise ValueError(
                f"config.n_items is {self.config.n_items}, but the items and the reserved rows make {rows}"
            )
        if len(self.item_counts) != len(self.items):
            raise ValueError(f"item_counts has {len(self.item_counts)} entries for {len(self.items)} items")
        if len(set(self.items)) != len(self.items):
            raise ValueError("items names an item twice")
        overlap = sorted(set(self.excluded_users).intersection(self.training_users or ()))
        if overlap:
            raise ValueError(f"training_users and excluded_users share {len(overlap)} users, such as {overlap[0]!r}")
        return self


def load_card(version_dir: Path) -> ModelCard:
    """Read and check a version's card. Raises ModelCardError naming the file and, where it can, the field."""
    path = version_dir / CARD_FILE
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise ModelCardError(f"{path}: {field}: {first['msg']} ({error.error_count()} problems in all)") from error


def save_card(card: ModelCard, version_dir: Path) -> Path:
    """Write a version's card, one field a line and long lists on one line, and return its path."""
    fields = card.model_dump(mode="json")
    lines = (f"  {json.dumps(name)}: {_pretty(value)}" for name, value in fields.items())
    path = version_dir / CARD_FILE
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return path


def _pretty(value: object) -> str:
    indented = isinstance(value, dict)
    return json.dumps(value, ensure_ascii=False, indent=2 if indented else None).replace("\n", "\n  ")
