"""Models together: an ensemble comes after the models it is made of, and goes before them."""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from nextact_server.inference.infer_errors import InferError, invalid_argument, unavailable
from nextact_server.inference.instance import ModelDoor
from nextact_server.inference.scheduling.ensemble_check import check_ensemble
from nextact_server.repository.check_ensemble import member_names
from nextact_server.repository.errors import RepositoryError
from nextact_server.repository.loading import FROM_DISK, LoadRequest, ModelLoader
from nextact_server.repository.model_state import UNLOADED, ModelRecord, ModelTable
from nextact_server.repository.retirement import Retirement
from nextact_server.repository.source import ModelSource, RepositoryRoots, read_source

__all__ = ["Lifecycle", "circle"]

logger = logging.getLogger(__name__)

LATEST = -1
UNLOAD_WAIT_S = 30.0
"""How long unloading a model waits for whoever loads it, and for requests in ensembles that use it."""
CLOSE_WAIT_S = 5.0
"""How long the end of the server waits for models: callers were answered before, and what still runs may never end."""


class Lifecycle:
    """Brings models up and takes them down, on the thread of whoever asks; one at a time per model.

    No lock of a model is held while another's is taken, so ensembles cannot make a deadlock.
    """

    def __init__(
        self,
        roots: RepositoryRoots,
        table: ModelTable,
        loader: ModelLoader,
        retirement: Retirement,
        models: ModelDoor,
    ) -> None:
        self._roots = roots
        self._table = table
        self._loader = loader
        self._retirement = retirement
        self._models = models
        self._closed = threading.Event()

    def bring_up(self, name: str, request: LoadRequest = FROM_DISK, *, retry: bool = True) -> None:
        """Load or reload a model, after the models it is made of.

        Without `retry` one that failed is not tried again while nothing of it changes.

        Raises:
            InferError: why not; what served before still does.
        """
        self._check_open()
        source = self._loader.read(name, request)
        record = self._table.record(name)
        try:
            self._bring_up_members(record, source, retry=retry)
            with record.loading:
                self._check_open()
                if not retry and record.failed_mark == source.marks:
                    raise invalid_argument(f"load failed for model '{name}': {record.problem}\n")
                self._table.note_members(record, member_names(source.config))
                changed = self._loader.load(record, source, force=request.is_override)
                if self._closed.is_set():  # meanwhile, without waiting for this
                    self._loader.retire(record, self._table.swap(record, {}))
        finally:
            if source.private is not None:
                source.private.release()
        if changed:
            self._look_at_ensembles_of(name)

    def take_down(
        self, record: ModelRecord, *, wanted: bool, reason: str = UNLOADED, until: float | None = None
    ) -> list[threading.Thread]:
        """Let a model serve no more, after the ensembles that use it; returns threads that end when it is freed.

        Waits for requests in those ensembles, and for a load of the model, to the moment `until` of `time.monotonic`;
        by default for UNLOAD_WAIT_S. `wanted` False: a model of it that changes does not bring it back.

        Raises:
            InferError: UNAVAILABLE, it is still being loaded.
        """
        end = time.monotonic() + UNLOAD_WAIT_S if until is None else until
        for other in self._table.records():
            if record.name in other.members and other.loaded:
                _join(self.take_down(other, wanted=other.wanted, until=end), end)
        if not record.loading.acquire(timeout=max(0.0, end - time.monotonic())):
            raise unavailable(f"failed to unload '{record.name}': it is still being loaded")
        try:
            record.wanted = wanted
            return self._loader.retire(record, self._table.swap(record, {}), reason)
        finally:
            record.loading.release()

    def close(self) -> None:
        """Load nothing more and take everything down, ensembles first. Blocks until all of it is freed.

        A model whose code does not come back, be it loaded or executed, is left behind after CLOSE_WAIT_S.
        """
        self._closed.set()
        began = time.monotonic()
        ensembles = [record for record in self._table.records() if record.members]
        for record in ensembles:
            end = began + CLOSE_WAIT_S / 2
            _join(self._take_down_at_last(record, end), end)
        end = began + CLOSE_WAIT_S
        # Those that are being loaded come last, lest one that blocks keeps the others from being freed.
        for record in sorted(self._table.records(), key=lambda record: record.loading.locked()):
            self._take_down_at_last(record, end)
        left = self._retirement.wait(end)
        if left:
            logger.error("models are left behind after %g s, for they do not come back: %s", CLOSE_WAIT_S, left)

    def members_on_disk(self, name: str) -> tuple[str, ...]:
        """The models that an ensemble of the repository names; nothing where it cannot be read."""
        try:
            source = read_source(self._roots, name)
        except RepositoryError:
            return ()
        return member_names(source.config) if source is not None else ()

    def _take_down_at_last(self, record: ModelRecord, until: float) -> list[threading.Thread]:
        try:
            return self.take_down(record, wanted=False, until=until)
        except InferError as error:
            logger.error("%s", error.message)
            return []

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise unavailable("the server is shutting down: no model is loaded any more")

    def _bring_up_members(self, record: ModelRecord, source: ModelSource, *, retry: bool) -> None:
        members = member_names(source.config)
        # Known even if it fails: it may come right with one of them.
        self._table.note_members(record, members)
        problem = self._problem_of_members(source, members, retry=retry) if members else ""
        if problem:
            raise self._loader.refuse(record, source, invalid_argument(problem))

    def _problem_of_members(self, source: ModelSource, members: tuple[str, ...], *, retry: bool) -> str:
        name = source.name
        found = circle(name, members, self.members_on_disk)
        if found:
            return f"circular dependency between ensembles: {found[0]} -> ... -> {found[-1]} -> {found[0]}"
        absent = [member for member in members if not self._is_there(member)]
        if absent:
            return f"ensemble {name} contains models that are not available or ambiguous: {', '.join(absent)}"
        for member in members:
            problem = self._ensure(member, retry=retry)
            if problem:
                return (
                    f"ensemble '{name}' depends on '{member}' which has no loaded version. Model '{member}' loading "
                    f"failed with error: {problem}"
                )
        for step in source.config.ensemble_scheduling.step:
            if step.model_version != LATEST and not self._models.is_ready(step.model_name, str(step.model_version)):
                return (
                    f"ensemble '{name}' depends on '{step.model_name}' whose required version {step.model_version} is "
                    "not loaded."
                )
        return ""

    def _ensure(self, name: str, *, retry: bool) -> str:
        """Load a model that does not serve; returns why it cannot be, or ''."""
        if self._models.is_ready(name):
            return ""
        try:
            self.bring_up(name, retry=retry)
        except InferError as error:
            record = self._table.find(name)
            return record.problem if record is not None and record.problem else error.message
        return ""

    def _is_there(self, name: str) -> bool:
        if self._models.is_ready(name):
            return True
        try:
            return read_source(self._roots, name) is not None
        except RepositoryError:
            return True

    def _look_at_ensembles_of(self, name: str) -> None:
        """A model changed: ensembles that it does not fit any more go, and those that waited for it come."""
        for record in self._table.records():
            if name not in record.members or not record.wanted:
                continue
            if not record.loaded:
                try:
                    self.bring_up(record.name, retry=False)
                except InferError as error:
                    logger.error("%s", error.message)
                continue
            try:
                for loaded in list(record.loaded.values()):
                    check_ensemble(loaded.served.spec, self._models.spec)
            except InferError as error:
                logger.error("%s", error.message)
                self.take_down(record, wanted=True, reason=error.message)


def _join(threads: Iterable[threading.Thread], until: float) -> None:
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def circle(name: str, members: Iterable[str], members_of: Callable[[str], Iterable[str]]) -> list[str]:
    """The way from a model through the models it is made of back to itself; empty where there is none."""
    seen: set[str] = set()
    ways = [[name, member] for member in members]
    while ways:
        way = ways.pop()
        last = way[-1]
        if last == name:
            return way[:-1]
        if last not in seen:
            seen.add(last)
            ways += [[*way, member] for member in members_of(last)]
    return []
