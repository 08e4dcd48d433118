"""What a training run is told: one TOML file, checked as a whole before anything is read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from nextact_server.sequence.config import CellName
from nextact_server.training.data_config import AnyData, AnySplit, LeaveOneOut, Section, SequenceData, UserSplit


class ConfigError(ValueError):
    """A training configuration that cannot be used; the message names the file and the field."""


class ModelSettings(Section):
    """Shape of the model; see SequenceConfig for what each cell reads of it."""

    cell: CellName = "gated"
    item_dim: int = Field(default=128, ge=1)
    hidden_dim: int = Field(default=168, ge=1)
    layers: int = Field(default=2, ge=1)
    model_dim: int = Field(default=128, ge=1)
    feed_forward: int = Field(default=2, ge=1)
    window: int = Field(default=50, ge=1)
    attention_heads: int = Field(default=2, ge=1)
    input_dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    dropout: float = Field(default=0.3, ge=0.0, lt=1.0)
    last_item_skip: bool = False
    horizon_s: float | None = Field(default=None, gt=0.0)
    """Foretell when the next event comes, and whether within this many seconds; not of data without times."""


class PriorSettings(Section):
    """Counted transitions, mixed into the next-item scores: see `sequence/prior.py` and `training/transitions.py`."""

    weight: float = Field(default=0.2, gt=0.0, lt=1.0)
    decay: float = Field(default=0.6, ge=0.0, le=1.0)
    reach: int = Field(default=5, ge=1)
    span: int = Field(default=3, ge=1)
    """Pairs up to so many steps apart are counted, each step further `span_decay` times less."""
    span_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    backward: float = Field(default=0.5, ge=0.0)
    """What a pair counts in the opposite order."""
    successors: int = Field(default=200, ge=1, le=200)


class FitSettings(Section):
    """How it is trained."""

    seed: int = 0
    epochs: int = Field(default=40, ge=1)
    patience: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0.0)
    warmup: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Part of the epochs in which the learning rate rises; in the rest it falls as a cosine."""
    weight_decay: float = Field(default=0.05, ge=0.0)
    average: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay per step of the running average of the weights, which is what is judged and kept; 0: the last ones."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products; the weights, the recurrence and the losses stay float32."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    sampled_items: int = Field(default=0, ge=0)
    """Candidates drawn per batch by popularity, logQ-corrected; 0: the softmax goes over the whole catalogue."""
    window: int = Field(default=200, ge=2)
    batch_events: int = Field(default=6400, ge=1)
    """Events in a batch, gaps between windows of different length counted."""
    validate_every: int = Field(default=1, ge=1)
    min_item_count: int = Field(default=1, ge=1)
    """Items with fewer training events get no id of their own and live by their content."""
    input_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    output_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    content_dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Part of the items that are met by their id alone, as items that were never registered are."""
    unknown_rate: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Part of the events whose item is replaced by the unknown item, without content."""
    action_weight: float = Field(default=1.0, ge=0.0)
    next_weight: float = Field(default=0.5, ge=0.0)
    use_content: bool = True
    refit: bool = True
    """Train again on all training users for the epochs that validation chose."""


class TrainingConfig(Section):
    """A whole run."""

    name: str = "next_action"
    version: str = "1"
    exclude_seen: bool = True
    record_training_users: bool = False
    """Write the training users' ids into the card; only for public data."""
    data: AnyData
    split: AnySplit = UserSplit()
    model: ModelSettings = ModelSettings()
    fit: FitSettings = FitSettings()
    prior: PriorSettings | None = None

    @field_validator("split", mode="before")
    @classmethod
    def _split_by_user(cls, value: object) -> object:
        return {"kind": "users", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _targets_are_asked_for(self) -> TrainingConfig:
        if isinstance(self.data, SequenceData) and self.data.targets and not isinstance(self.split, LeaveOneOut):
            raise ValueError('data.targets is judged by split.kind = "leave-one-out" only')
        return self


def load_config(path: Path, targets: Path | None = None) -> TrainingConfig:
    """Read a TOML configuration; ${NAME} in a path of [data] is an environment variable.

    `targets`, lines of `user item`, are what came after the end of the data; only for data of kind "sequences".
    Raises ConfigError naming the file and the field, or the variable that is not set.
    """
    try:
        config = TrainingConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {field}: {first['msg']}" if field else f"{path}: {first['msg']}") from error
    if targets is None:
        return config
    if not isinstance(config.data, SequenceData):
        raise ConfigError(f"{path}: data.kind is {config.data.kind!r}; targets are for 'sequences' alone")
    return config.model_copy(update={"data": config.data.model_copy(update={"targets": targets.absolute()})})
