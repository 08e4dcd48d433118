"""One model's load: read, compare with what serves, load what changed, swap. And what goes wrong on that way."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from nextact_server.inference.device import DeviceError
from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument
from nextact_server.repository.check_ensemble import member_names
from nextact_server.repository.errors import RepositoryError, status_text
from nextact_server.repository.model_state import UNLOADED, LoadedModel, ModelRecord, ModelTable
from nextact_server.repository.retirement import Retirement
from nextact_server.repository.source import ModelSource, RepositoryRoots, read_source
from nextact_server.repository.unsupported import warn_of_unsupported
from nextact_server.repository.version_loader import VersionLoader

__all__ = ["FROM_DISK", "LoadRequest", "ModelLoader"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What a load brings: a configuration as JSON that replaces the file's, and files that replace the directory's."""

    config_json: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def is_override(self) -> bool:
        """Whether it brings anything, so that nothing that serves can be kept."""
        return self.config_json is not None or bool(self.files)


FROM_DISK = LoadRequest()


class ModelLoader:
    """Loads models one at a time per model, for whoever holds the record's `loading`."""

    def __init__(
        self, roots: RepositoryRoots, table: ModelTable, versions: VersionLoader, retirement: Retirement
    ) -> None:
        self._roots = roots
        self._table = table
        self._versions = versions
        self._retirement = retirement

    def read(self, name: str, request: LoadRequest) -> ModelSource:
        """What there is of a model now.

        Raises:
            InferError: there is none, or it is not one; the reason is kept for RepositoryIndex.
        """
        try:
            source = read_source(self._roots, name, request.config_json, request.files)
        except RepositoryError as error:
            logger.error("Poll failed for model directory '%s': %s", name, error)
            self._table.failed(self._table.record(name), status_text(error), None, {}, [])
            code = ErrorCode.INVALID_ARG if request.is_override else ErrorCode.INTERNAL
            raise InferError(code, f"{_poll_failed(name)}: {error}") from error
        if source is None:
            raise InferError(ErrorCode.NOT_FOUND, _poll_failed(name))
        return source

    def load(self, record: ModelRecord, source: ModelSource, *, force: bool) -> bool:
        """Let the versions of `source` serve; those that nothing changed of go on unless `force`. The lock is held.

        Returns whether anything changed. All versions take over together, or none does.

        Raises:
            InferError: why not; what served before still does.
        """
        kept = {
            version: record.loaded[version]
            for version in source.versions
            if not force and version in record.loaded and record.loaded[version].mark == source.marks[version]
        }
        if source.versions and set(kept) == set(record.loaded) == set(source.versions):
            self._table.swap(record, kept)
            return False
        for version in source.missing:
            logger.error(
                "version %d is specified for model '%s', but the version directory is not present", version, source.name
            )
        if not source.versions:
            raise self.refuse(
                record,
                source,
                invalid_argument(
                    f"at least one version must be available under the version policy of model '{source.name}'"
                ),
            )
        warn_of_unsupported(source.config)
        loaded = kept | self._load(record, source, [version for version in source.versions if version not in kept])
        self.retire(record, self._table.swap(record, dict(sorted(loaded.items()))))
        logger.info("successfully loaded '%s' version %s", source.name, ", ".join(map(str, source.versions)))
        return True

    def refuse(self, record: ModelRecord, source: ModelSource, error: InferError) -> InferError:
        """Keep why a model as a whole cannot be loaded, and return what its caller is told."""
        logger.error("failed to load model '%s': %s", source.name, error.message)
        self._table.failed(record, status_text(error), _retry_mark(source), {}, [])
        return invalid_argument(f"load failed for model '{source.name}': {error.message}\n")

    def retire(
        self, record: ModelRecord, gone: Mapping[int, LoadedModel], reason: str = UNLOADED
    ) -> list[threading.Thread]:
        """Close swapped-out versions when they are idle, and say so in the index; the threads may be joined."""
        return [
            self._retirement.retire(old, partial(self._table.retired, record, version, reason))
            for version, old in gone.items()
        ]

    def _load(self, record: ModelRecord, source: ModelSource, versions: list[int]) -> dict[int, LoadedModel]:
        self._table.began(record, versions)
        loaded: dict[int, LoadedModel] = {}
        reasons: dict[int, str] = {}
        for version in versions:
            try:
                served = self._versions.load(source, version)
            except Exception as error:  # whatever a model raises is a reason
                reasons[version] = status_text(error)
                trace = None if isinstance(error, (InferError, RepositoryError, DeviceError)) else error
                logger.error(
                    "failed to load '%s' version %d: %s", source.name, version, reasons[version], exc_info=trace
                )
                continue
            if source.private is not None:
                source.private.keep()
            loaded[version] = LoadedModel(served, source.marks[version], source.private)
        if not reasons:
            return loaded
        for one in loaded.values():
            self._retirement.retire(one)
        if member_names(source.config):  # what is wrong with an ensemble is told of all of it
            told = next(iter(reasons.values())).partition(": ")[2]
        else:
            told = "".join(
                f"version {version} is at UNAVAILABLE state: {reason};" for version, reason in reasons.items()
            )
        self._table.failed(record, told, _retry_mark(source), reasons, versions)
        raise invalid_argument(f"load failed for model '{source.name}': {told}\n")


def _retry_mark(source: ModelSource) -> object:
    """What makes a retry useless; an ensemble may come right when one of its models does."""
    return None if member_names(source.config) else source.marks


def _poll_failed(name: str) -> str:
    return f"failed to load '{name}', failed to poll from model repository"
