"""What the control RPCs ask of the model repository."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from nextact_server.repository.served import ServedModel

__all__ = ["IndexEntry", "ModelRegistry"]


class IndexEntry(Protocol):
    """One line of RepositoryIndex. A model of which nothing was ever loaded has a line without version and state."""

    @property
    def name(self) -> str:
        """The model."""

    @property
    def version(self) -> str:
        """Its version, or ''."""

    @property
    def state(self) -> str:
        """READY, UNAVAILABLE, LOADING, UNLOADING, or ''."""

    @property
    def reason(self) -> str:
        """Why it is in that state, or ''."""


class ModelRegistry(Protocol):
    """The loaded models. All methods may be called on any thread; `load`, `unload` and `index` may block."""

    def get(self, name: str, version: str) -> ServedModel:
        """A version that is ready; '' is the highest. Raises InferError, with Triton's wording."""

    def versions(self, name: str) -> Sequence[int]:
        """The versions that are ready, rising; none for a model that is not there."""

    def all(self) -> Sequence[ServedModel]:
        """Every version that is ready, of every model."""

    def is_ready(self, name: str, version: str) -> bool:
        """Whether it can be asked now; '' is any version. Raises InferError for a version that is no number."""

    def index(self, ready_only: bool) -> Sequence[IndexEntry]:
        """What the repository holds, loaded or not."""

    def load(self, name: str, config_json: str | None, files: Mapping[str, bytes]) -> None:
        """Load or reload a model, waiting for it; `files` by their path in the model's directory. Raises InferError."""

    def unload(self, name: str, unload_dependents: bool) -> None:
        """Unload a model. Raises InferError."""
