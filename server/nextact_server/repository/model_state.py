"""What the registry knows of its models: who serves, who does not and why. Values under one lock, and one table."""

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from nextact_server.inference.infer_errors import InferError, not_found, unavailable
from nextact_server.repository.policy import parse_version
from nextact_server.repository.served import ServedModel
from nextact_server.repository.source import PrivateDirectory

__all__ = ["UNLOADED", "IndexEntry", "LoadedModel", "ModelRecord", "ModelState", "ModelTable", "VersionState"]

UNLOADED = "unloaded"


class ModelState(StrEnum):
    """States of RepositoryIndex; UNKNOWN is a model of which nothing was ever loaded."""

    UNKNOWN = ""
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


class IndexEntry(NamedTuple):
    """A line of RepositoryIndex; `version` is '' where no version is known."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class VersionState:
    """The state of one version, and why it is not ready, or why a newer load of it failed."""

    state: ModelState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version that serves, the mark of what it was made of, and the private directory that it keeps."""

    served: ServedModel
    mark: object
    private: PrivateDirectory | None = None


@dataclass(slots=True, eq=False)
class ModelRecord:
    """One model. `loading` is held by whoever loads or unloads it; the other fields by the table's lock.

    Attributes:
        loaded: the versions that serve.
        states: every version that was ever tried.
        members: the models it names, where it is an ensemble.
        wanted: False once it was unloaded by a request.
        problem: why the last load failed; '' where it did not.
        failed_mark: the marks of what failed: no use to try them again. None where it may come right by itself.
    """

    name: str
    loading: threading.Lock = field(default_factory=threading.Lock)
    loaded: dict[int, LoadedModel] = field(default_factory=dict)
    states: dict[int, VersionState] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    wanted: bool = True
    problem: str = ""
    failed_mark: object = None


class ModelTable:
    """The records, and the dictionary that requests look their model up in, which is only ever replaced as a whole."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, ModelRecord] = {}
        self._serving: dict[tuple[str, str], ServedModel] = {}

    def get(self, name: str, version: str) -> ServedModel:
        """The version that serves; '' is the highest. No lock is taken where there is one.

        Raises:
            InferError: in Triton's words, why there is none.
        """
        served = self._serving.get((name, version))
        return served if served is not None else self._find(name, version)

    def record(self, name: str) -> ModelRecord:
        """The record of a model, which is made if there is none."""
        with self._lock:
            return self._records.setdefault(name, ModelRecord(name))

    def find(self, name: str) -> ModelRecord | None:
        """The record of a model, if there is one."""
        return self._records.get(name)

    def records(self) -> list[ModelRecord]:
        """All records, by name."""
        with self._lock:
            return [self._records[name] for name in sorted(self._records)]

    def serving(self) -> list[ServedModel]:
        """Every version that serves, by model and number."""
        return [served for _, served in sorted(self._versions().items())]

    def of(self, name: str) -> list[ServedModel]:
        """The versions of a model that serve, rising."""
        return [served for (model, _), served in sorted(self._versions().items()) if model == name]

    def index(self, record: ModelRecord) -> list[IndexEntry]:
        """A model's lines of RepositoryIndex, by version; none where nothing was tried."""
        with self._lock:
            states, problem = dict(record.states), record.problem
        if not states and problem:
            return [IndexEntry(record.name, "", ModelState.UNAVAILABLE.value, problem)]
        lines = []
        for version, one in sorted(states.items()):
            reason = one.reason or (problem if one.state is ModelState.READY else "")
            lines.append(IndexEntry(record.name, str(version), one.state.value, reason))
        return lines

    def began(self, record: ModelRecord, versions: list[int]) -> None:
        """These versions are being loaded; those that serve stay READY meanwhile."""
        with self._lock:
            for version in versions:
                if version not in record.loaded:
                    record.states[version] = VersionState(ModelState.LOADING)

    def failed(
        self, record: ModelRecord, problem: str, mark: object, reasons: dict[int, str], began: list[int]
    ) -> None:
        """The load failed for these reasons; what served before still does."""
        with self._lock:
            record.problem, record.failed_mark = problem, mark
            for version in began:
                if version in record.loaded:
                    record.states[version] = VersionState(ModelState.READY, reasons.get(version, ""))
                elif version in reasons:
                    record.states[version] = VersionState(ModelState.UNAVAILABLE, reasons[version])
                else:  # loaded, and dropped because of another
                    record.states[version] = VersionState(ModelState.UNAVAILABLE, UNLOADED)

    def swap(self, record: ModelRecord, loaded: dict[int, LoadedModel]) -> dict[int, LoadedModel]:
        """Let these versions serve and no others; returns those that do not any more, which must be retired."""
        with self._lock:
            gone = {version: old for version, old in record.loaded.items() if loaded.get(version) is not old}
            record.loaded = loaded
            record.problem, record.failed_mark = "", None
            for version in gone:
                record.states[version] = VersionState(ModelState.UNLOADING)
            for version in loaded:
                record.states[version] = VersionState(ModelState.READY)
            self._publish()
        return gone

    def retired(self, record: ModelRecord, version: int, reason: str = UNLOADED) -> None:
        """A version that was swapped out is freed."""
        with self._lock:
            if record.states[version].state is ModelState.UNLOADING:
                record.states[version] = VersionState(ModelState.UNAVAILABLE, reason)

    def note_members(self, record: ModelRecord, members: tuple[str, ...]) -> None:
        """An ensemble that is wanted is made of these."""
        with self._lock:
            record.members, record.wanted = members, True

    def forget(self, name: str) -> None:
        """Drop the record of a model whose directory is gone, if nothing of it serves."""
        with self._lock:
            record = self._records.get(name)
            if record is not None and not record.loaded:
                del self._records[name]

    def _publish(self) -> None:
        serving = {}
        for record in self._records.values():
            for version in sorted(record.loaded):
                served = record.loaded[version].served
                serving[record.name, str(version)] = served
                serving[record.name, ""] = served
        self._serving = serving

    def _versions(self) -> dict[tuple[str, int], ServedModel]:
        return {(name, int(version)): served for (name, version), served in self._serving.items() if version}

    def _find(self, name: str, text: str) -> ServedModel:
        version = parse_version(text) if text else None
        prefix = f"Request for unknown model: '{name}'"
        if version is None:
            raise self._unknown(name) or not_found(f"{prefix} has no available versions")
        served = self._serving.get((name, str(version)))
        if served is not None:
            return served
        unknown = self._unknown(name)
        if unknown is not None:
            raise unknown
        with self._lock:
            is_known = version in self._records[name].states if name in self._records else False
        if is_known:
            raise unavailable(f"{prefix} version {version} is not at ready state")
        raise not_found(f"{prefix} version {version} is not found")

    def _unknown(self, name: str) -> InferError | None:
        with self._lock:
            record = self._records.get(name)
            if record is None or not record.states:
                return not_found(f"Request for unknown model: '{name}' is not found")
        return None
