"""The one version of an own model: served by a scheduler of its own, freed by the room that it stands before."""

from dataclasses import dataclass

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.infer_spec import Placement
from nextact_server.inference.instance import ModelInstance, Scheduler
from nextact_server.repository.config import ModelConfig

__all__ = ["OwnVersion", "add_tensor", "check_own"]


@dataclass(frozen=True, slots=True)
class OwnVersion:
    """A LoadedVersion without instances."""

    own: Scheduler

    def instance(self, placement: Placement) -> ModelInstance:
        """Never asked, for there is a scheduler."""
        raise invalid_argument(f"{placement.name}: this model has no instances")

    def scheduler(self) -> Scheduler:
        """The model's own scheduler."""
        return self.own

    def close(self) -> None:
        """Nothing: the room closes the model."""


def check_own(config: ModelConfig, name: str, setting: str) -> None:
    """Raises InferError if a config is not that of the served model of its kind, or asks for what it cannot have."""
    if config.name != name:
        raise invalid_argument(
            f"backend {config.backend!r} serves one model, {name!r} ({setting}); {config.name!r} cannot be loaded"
        )


def add_tensor(tensors: list[object], name: str, data_type: str, dims: list[int], *, optional: bool = False) -> None:
    """Appends an input or output to a config's list."""
    tensor = tensors.add(name=name, data_type=data_type, dims=dims)  # type: ignore[attr-defined]
    if optional:
        tensor.optional = True
