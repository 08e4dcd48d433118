"""What a training run is told: one TOML file, checked as a whole before anything is read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class ConfigError(ValueError):
    """A training configuration that cannot be used; the message names the file and the field."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MovieLensData(_Section):
    """A MovieLens "latest" folder, relative to the configuration file."""

    kind: Literal["movielens"]
    folder: Path


class EventData(_Section):
    """One's own events in the contract's columns; paths are relative to the configuration file."""

    kind: Literal["events"]
    files: tuple[Path, ...]
    items: Path | None = None
    name: str = "own events"
    licence: str = "own data"
    actions: tuple[str, ...] = ()
    """Known actions; empty: all that occur among the training users, the most frequent first."""
    item_targets: tuple[str, ...] = ()
    """Actions whose item is a next item to foretell; empty: all actions."""


class SplitSettings(_Section):
    """Which users take part in what, by sha256(user) mod `modulus`."""

    modulus: int = Field(default=10, ge=2)
    excluded: tuple[int, ...] = (0,)
    """Users never trained on: the final evaluation is theirs."""
    validation: tuple[int, ...] = (1,)
    """Training users held out while the number of epochs is chosen; the shipped model is trained on them too."""
    judged_part: float = Field(default=0.2, gt=0.0, le=1.0)
    """The part of a user's events, from the end, that is foretold in validation and evaluation."""

    @model_validator(mode="after")
    def _apart(self) -> SplitSettings:
        if set(self.excluded) & set(self.validation):
            raise ValueError("excluded and validation share a residue")
        return self


class ModelSettings(_Section):
    """Shape of the model."""

    cell: Literal["gru", "lstm"] = "gru"
    item_dim: int = Field(default=64, ge=1)
    hidden_dim: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)


class FitSettings(_Section):
    """How it is trained."""

    seed: int = 0
    epochs: int = Field(default=40, ge=1)
    patience: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    window: int = Field(default=100, ge=2)
    windows_per_batch: int = Field(default=32, ge=1)
    min_item_count: int = Field(default=1, ge=1)
    """Items with fewer training events get no id of their own and live by their content."""
    input_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    output_id_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    content_dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Part of the items that are met by their id alone, as items that were never registered are."""
    unknown_rate: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Part of the events whose item is replaced by the unknown item, without content."""
    action_weight: float = Field(default=1.0, ge=0.0)
    use_content: bool = True
    refit: bool = True
    """Train again on all training users for the epochs that validation chose."""


class TrainingConfig(_Section):
    """A whole run."""

    name: str = "next_action"
    version: str = "1"
    exclude_seen: bool = True
    record_training_users: bool = False
    """Write the training users' ids into the card; only for public data."""
    data: Annotated[MovieLensData | EventData, Field(discriminator="kind")]
    split: SplitSettings = SplitSettings()
    model: ModelSettings = ModelSettings()
    fit: FitSettings = FitSettings()


def load_config(path: Path) -> TrainingConfig:
    """Read a TOML configuration. Raises ConfigError naming the file and the field."""
    try:
        return TrainingConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
