"""What a training run is told of its data: where the events are, and who is kept out of training."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


class Section(BaseModel):
    """A table of the TOML file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _expanded(value: object) -> object:
    """Put environment variables, written ${NAME}, into a path. Raises ValueError naming one that is not set.

    A folder that a variable names is relative to where the command runs, not to the configuration file.
    """
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if not os.environ.get(name):
            raise ValueError(f"{value!r} needs the environment variable {name}, which is not set")
    return _VARIABLE.sub(lambda found: str(Path(os.environ[found[1]]).absolute()), value)


DataPath: TypeAlias = Annotated[Path, BeforeValidator(_expanded)]
"""A path relative to the configuration file; ${NAME} in it stands for an environment variable."""


class MovieLensData(Section):
    """A MovieLens "latest" folder."""

    kind: Literal["movielens"]
    folder: DataPath


class EventData(Section):
    """One's own events in the contract's columns."""

    kind: Literal["events"]
    files: tuple[DataPath, ...]
    items: DataPath | None = None
    name: str = "own events"
    licence: str = "own data"
    actions: tuple[str, ...] = ()
    """Known actions; empty: all that occur among the training events, the most frequent first."""
    item_targets: tuple[str, ...] = ()
    """Actions whose item is a next item to foretell; empty: all actions."""
    uses_time: bool = True
    """False where event_time only says the order: gaps, hours and weekdays are then ignored."""
    uses_actions: bool = True
    """False where all events mean the same: actions are then ignored, and every item is a next item."""


class SequenceData(Section):
    """Lines of `user item item ...`, oldest first, without times and actions."""

    kind: Literal["sequences"]
    file: DataPath
    name: str = "own sequences"
    licence: str = "own data"
    titles: DataPath | None = None
    """Lines of `item::title::genre|genre` in latin-1, as in MovieLens' movies.dat."""
    attributes: DataPath | None = None
    """JSON, from item to a list of attribute ids."""
    unseen_items: bool = True
    """Whether items that only `titles` or `attributes` name belong to the catalogue too."""
    targets: DataPath | None = None
    """Lines of `user item`: what came after the end of `file`, to be foretold and never trained on."""


class JData(Section):
    """A folder of JD.com micro-behaviours: train.csv, item_attributes.tsv and entities.tsv."""

    kind: Literal["jdata"]
    folder: DataPath


AnyData: TypeAlias = Annotated[MovieLensData | EventData | SequenceData | JData, Field(discriminator="kind")]


class UserSplit(Section):
    """Which users take part in what, by sha256(user) mod `modulus`."""

    kind: Literal["users"] = "users"
    modulus: int = Field(default=10, ge=2)
    excluded: tuple[int, ...] = (0,)
    """Users never trained on: the final evaluation is theirs."""
    validation: tuple[int, ...] = (1,)
    """Training users held out while the number of epochs is chosen; the shipped model is trained on them too."""
    judged_part: float = Field(default=0.2, gt=0.0, le=1.0)
    """The part of a user's events, from the end, that is foretold in validation and evaluation."""

    @model_validator(mode="after")
    def _apart(self) -> UserSplit:
        if set(self.excluded) & set(self.validation):
            raise ValueError("excluded and validation share a residue")
        return self


class LeaveOneOut(Section):
    """Everybody's last event validates, all before it is trained on; `data.targets` is for the final evaluation."""

    kind: Literal["leave-one-out"]


class Folds(Section):
    """Users are dealt into folds by `seed`; one fold is judged by a model trained on the others."""

    kind: Literal["folds"]
    folds: int = Field(default=5, ge=2)
    seed: int = 0
    validation: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Part of the training users that are held out while the number of epochs is chosen."""


class ColdItems(Section):
    """A part of the items is never met in training; every event on one of them is foretold, from all events before."""

    kind: Literal["cold-items"]
    part: float = Field(default=0.05, gt=0.0, lt=1.0)
    seed: int = 0


AnySplit: TypeAlias = Annotated[UserSplit | LeaveOneOut | Folds | ColdItems, Field(discriminator="kind")]
