"""What the disk, or a load request, holds of a model, and a mark of it that changes whenever it does."""

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tritonclient.grpc import model_config_pb2

from nextact_server.repository.checks import check_config
from nextact_server.repository.config import CONFIG_FILE, ModelConfig, config_of_json, read_config
from nextact_server.repository.errors import RepositoryError
from nextact_server.repository.policy import is_version, missing_versions, offered_versions, version_numbers

__all__ = ["ModelSource", "PrivateDirectory", "RepositoryRoots", "read_source"]

FILE_PREFIX = "file:"
OVERRIDE = "config override"
LONGEST_NAME = 255
"""Bytes that a directory's name may have; asking for a longer one is an error of the file system's."""

Files = tuple[tuple[str, int, int], ...]
"""Path, modification time in ns and size of each file, in order."""


class PrivateDirectory:
    """A directory of this process alone that stands in for a model's; it goes with the last who keeps it."""

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write the files; the caller keeps it, and must release it.

        Raises:
            RepositoryError: a path that is empty, absolute or leads out of the directory.
        """
        paths = {_inside(key.removeprefix(FILE_PREFIX)): data for key, data in files.items()}
        self._root = Path(tempfile.mkdtemp(prefix="nextact-model-"))
        self._lock = threading.Lock()
        self._users = 1
        self.path = self._root / name
        try:
            for path, data in paths.items():
                target = self.path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        except OSError as error:
            self.release()
            raise RepositoryError(Path(name), f"the files of the load request cannot be written: {error}") from error

    def keep(self) -> None:
        """One more needs it."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One fewer needs it."""
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            shutil.rmtree(self._root, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as it stands now, not yet completed.

    Attributes:
        model_dir: where its versions are.
        config: as written, or as the load request brought it; checked as far as it can be without the model.
        versions: what its policy offers, rising; `missing` what it names in vain.
        marks: per offered version, equal exactly as long as nothing that it is made of changes.
        private: the directory that the load request's files were written to, kept once for whoever got this.
    """

    name: str
    model_dir: Path
    config: ModelConfig
    versions: tuple[int, ...]
    missing: tuple[int, ...]
    marks: Mapping[int, object] = field(repr=False)
    private: PrivateDirectory | None = None


class RepositoryRoots:
    """The directories that models are looked for in; a model may be in one of them only."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(roots)

    def names(self) -> list[str]:
        """Names of the models: the directories that hold a config.pbtxt or a version, in order.

        Raises:
            RepositoryError: one of the roots cannot be read.
        """
        return sorted({name for root in self.roots for name in _names(root)})

    def find(self, name: str) -> Path | None:
        """The directory of a model; None: there is none.

        Raises:
            RepositoryError: there are several.
        """
        if not _is_name(name):
            return None
        found = [root / name for root in self.roots if _is_model(root / name)]
        if len(found) > 1:
            raise RepositoryError(found[1], f"model '{name}' is not unique across all model repositories")
        return found[0] if found else None

    def mark(self, name: str) -> object:
        """A value that changes whenever a file of a model does, be it readable as a model or not."""
        return [_disk_mark(root / name) for root in self.roots]


def read_source(
    roots: RepositoryRoots, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None
) -> ModelSource | None:
    """Read a model of the repository, or as a load request brings it. None: there is no such model.

    Files of a request stand in for the whole directory of the model, which then need not be there.

    Raises:
        RepositoryError: what it holds is not a model, or the request's config or files are not what they should be.
    """
    if files:
        if config_json is None:
            raise RepositoryError(Path(name), "Load parameter 'config' must be specified for model file override")
        if not _is_name(name):
            return None
        private = PrivateDirectory(name, files)
        try:
            return _read(name, private.path, config_json, private)
        except BaseException:
            private.release()
            raise
    model_dir = roots.find(name)
    return _read(name, model_dir, config_json, None) if model_dir is not None else None


def _read(name: str, model_dir: Path, config_json: str | None, private: PrivateDirectory | None) -> ModelSource:
    path = model_dir / CONFIG_FILE
    if config_json is not None:
        path = Path(name) / OVERRIDE
        config = config_of_json(config_json, path)
    elif path.exists():
        config = read_config(path)
    else:
        config = model_config_pb2.ModelConfig()
    check_config(config, path, name)
    try:
        numbers = version_numbers(model_dir)
        common, by_version = _files(model_dir)
    except OSError as error:
        raise RepositoryError(model_dir, f"cannot be read: {error.strerror}") from error
    written = config.SerializeToString(deterministic=True)
    versions = offered_versions(config, numbers)
    return ModelSource(
        name,
        model_dir,
        config,
        versions,
        tuple(missing_versions(config, numbers)),
        {version: (str(model_dir), written, common, by_version.get(version, ())) for version in versions},
        private,
    )


def _names(root: Path) -> list[str]:
    try:
        return [path.name for path in root.iterdir() if _is_model(path)]
    except OSError as error:
        reason = "no directory there" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise RepositoryError(root, f"{reason}; model_repository says where the models are") from error


def _disk_mark(model_dir: Path) -> object:
    if not model_dir.is_dir():
        return None
    try:
        config = (model_dir / CONFIG_FILE).read_bytes()
    except OSError:
        config = b""
    return config, sorted(path.name for path in model_dir.iterdir() if is_version(path.name)), _files(model_dir)


def _files(model_dir: Path) -> tuple[Files, dict[int, Files]]:
    """The files of a model: those of its versions, and the others. What Python compiles by itself is not looked at."""
    common: list[tuple[str, int, int]] = []
    by_version: dict[int, list[tuple[str, int, int]]] = {}
    seen: set[str] = set()
    for directory, names, files in os.walk(model_dir, followlinks=True):
        real = str(Path(directory).resolve())
        if real in seen:  # a link that leads back
            names.clear()
            continue
        seen.add(real)
        names[:] = [name for name in names if name != "__pycache__"]
        parts = Path(directory).relative_to(model_dir).parts
        group = by_version.setdefault(int(parts[0]), []) if parts and is_version(parts[0]) else common
        for file in files:
            path = Path(directory, file)
            relative = str(path.relative_to(model_dir))
            if relative == CONFIG_FILE:
                continue  # its text is compared
            try:
                status = path.stat()
            except OSError:
                continue  # gone since, or a link to nothing
            group.append((relative, status.st_mtime_ns, status.st_size))
    return tuple(sorted(common)), {version: tuple(sorted(group)) for version, group in by_version.items()}


def _is_model(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_dir():
        return False
    return (path / CONFIG_FILE).exists() or any(is_version(one.name) and one.is_dir() for one in path.iterdir())


def _is_name(name: str) -> bool:
    fits = 0 < len(os.fsencode(name)) <= LONGEST_NAME
    return fits and not name.startswith(".") and "/" not in name and "\0" not in name


def _inside(text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise RepositoryError(
            Path(text), f"Invalid file parameter '{FILE_PREFIX}{text}': it must stay within model directory."
        )
    return path
