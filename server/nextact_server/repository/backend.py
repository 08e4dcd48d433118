"""The seam to the code that runs models: a backend makes a loaded version of a version directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nextact_server.inference.infer_spec import ModelSpec, Placement
from nextact_server.inference.instance import ModelDoor, ModelInstance, Scheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.repository.config import ModelConfig

__all__ = ["Backend", "LoadedVersion", "ModelContext"]


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a backend is told of the version it loads.

    `model_dir` is the model's directory in the repository (or the one that stands in for it where a load brought its
    own files), `version_dir` the version's in it; `config` the completed configuration, `spec` its plain values.
    """

    model_dir: Path
    version_dir: Path
    config: ModelConfig
    spec: ModelSpec
    statistics: ModelStatistics
    models: ModelDoor


class LoadedVersion(Protocol):
    """A version in memory; instances share what can be shared (weights)."""

    def instance(self, placement: Placement) -> ModelInstance:
        """Make one instance. Raises InferError, or anything else, where it cannot be."""

    def scheduler(self) -> Scheduler | None:
        """Its own scheduler, where it has no instances (nextact's own models, ensembles); None: by the config."""

    def close(self) -> None:
        """Free it, after its instances."""


class Backend(Protocol):
    """Code that runs models of one kind; one object for all models, made once."""

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:
        """The configuration with what it left out read from the model: inputs, outputs, max_batch_size.

        Raises InferError, RepositoryError or anything else where the model cannot be read or contradicts it.
        """

    def load(self, context: ModelContext) -> LoadedVersion:
        """Load a version. Raises whatever says why it cannot be."""
