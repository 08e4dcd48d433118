"""A Triton-shaped model repository on disk: `<model>/config.pbtxt` beside numeric version directories."""

from dataclasses import dataclass
from pathlib import Path

from nextact_server.repository.config import CONFIG_FILE, ModelConfig, parse_config
from nextact_server.repository.errors import ModelNotFoundError, RepositoryError
from nextact_server.repository.policy import missing_versions, offered_versions, version_numbers

__all__ = ["ModelEntry", "ModelRepository"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: its directory, its configuration and its versions, rising."""

    name: str
    path: Path
    config: ModelConfig
    versions: tuple[int, ...]

    @property
    def latest(self) -> int:
        """The highest version."""
        return self.versions[-1]

    def version_dir(self, version: int | str | None = None) -> Path:
        """Return the directory of a version: of the latest, where it is None or ''.

        Raises:
            ModelNotFoundError: there is no such version.
        """
        if version in (None, ""):
            return self.path / str(self.latest)
        if str(version) not in map(str, self.versions):
            known = ", ".join(map(str, self.versions))
            raise ModelNotFoundError(f"model {self.name!r} has no version {version!r}; it has {known}")
        return self.path / str(version)


class ModelRepository:
    """Reads a repository afresh at every call; keeps nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names of the models: the directories that hold a config.pbtxt, in order.

        Raises:
            RepositoryError: there is no such directory.
        """
        if not self.root.is_dir():
            raise RepositoryError(self.root, "no directory there; model_repository says where the models are")
        return sorted(path.parent.name for path in self.root.glob(f"*/{CONFIG_FILE}"))

    def scan(self) -> list[ModelEntry]:
        """Read every model. Raises RepositoryError at the first that cannot be read."""
        return [self._read(name) for name in self.names()]

    def get(self, name: str) -> ModelEntry:
        """Read one model.

        Raises:
            ModelNotFoundError: there is none of that name.
            RepositoryError: it cannot be read, or has no version.
        """
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise ModelNotFoundError(f"model repository {self.root} has no model {name!r}; it has {known}")
        return self._read(name)

    def _read(self, name: str) -> ModelEntry:
        path = self.root / name
        config = parse_config(path / CONFIG_FILE)
        numbers = version_numbers(path)
        if not numbers:
            raise RepositoryError(path, "holds no version: a directory whose name is a number, such as 1")
        versions = offered_versions(config, numbers)
        if not versions:
            missing = missing_versions(config, numbers)
            reason = f"names versions {missing}, which are not there" if missing else "offers no version"
            field = "version_policy.specific.versions" if missing else "version_policy"
            raise RepositoryError(path / CONFIG_FILE, reason, field=field)
        return ModelEntry(name, path, config, versions)
