"""The models of a server from the first load to the last answer: loaded, looked up, replaced, unloaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nextact_server.inference.batcher import BatchObserver
from nextact_server.inference.execution import BatchListener
from nextact_server.inference.infer_check import check
from nextact_server.inference.infer_errors import ErrorCode, InferError, unavailable
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.rate_limiter import RateLimiter
from nextact_server.inference.response_cache import ResponseCache
from nextact_server.repository.backend import Backend
from nextact_server.repository.daemon_threads import DaemonThreads
from nextact_server.repository.errors import RepositoryError
from nextact_server.repository.lifecycle import UNLOAD_WAIT_S, Lifecycle
from nextact_server.repository.loading import LoadRequest, ModelLoader
from nextact_server.repository.model_state import IndexEntry, ModelState, ModelTable
from nextact_server.repository.options import ALL_MODELS, ControlMode, RegistryOptions
from nextact_server.repository.retirement import Retirement
from nextact_server.repository.served import Retired, ServedModel
from nextact_server.repository.source import RepositoryRoots
from nextact_server.repository.version_loader import VersionLoader
from nextact_server.repository.watching import RepositoryWatch, Wait

__all__ = ["IndexEntry", "ModelRegistry"]


class ModelRegistry:
    """Implements `ModelDoor`. Any thread may call anything; only loading, unloading and closing wait.

    Args:
        root: the model repository, or several.
        backends: by the name that config.pbtxt says.
        options: see there.
        listener, limiter, cache: what executions tell, wait for and are saved by; shared by all models.
        observer: who is told of the batches of their queues.
        poll_wait: waits between two looks of mode poll, in tests.
    """

    def __init__(
        self,
        root: Path | Sequence[Path],
        backends: Mapping[str, Backend],
        options: RegistryOptions,
        *,
        listener: BatchListener | None = None,
        limiter: RateLimiter | None = None,
        cache: ResponseCache | None = None,
        observer: BatchObserver | None = None,
        poll_wait: Wait | None = None,
    ) -> None:
        self._roots = RepositoryRoots([root] if isinstance(root, Path) else root)
        self._options = options
        self._table = ModelTable()
        retirement = Retirement()
        versions = VersionLoader(backends, self, listener=listener, limiter=limiter, cache=cache, observer=observer)
        loader = ModelLoader(self._roots, self._table, versions, retirement)
        self._lifecycle = Lifecycle(self._roots, self._table, loader, retirement, self)
        self._threads = DaemonThreads(options.load_threads, "model-load")
        self.watch = RepositoryWatch(
            self._roots,
            self._table,
            self._lifecycle,
            self._threads,
            pinned=options.pinned,
            seconds=options.poll_seconds,
            wait=poll_wait,
        )

    def start(self) -> None:
        """Load what the control mode says, several models side by side, then begin to poll where it says so.

        Raises:
            InferError: a model could not be loaded, and it is pinned or `exit_on_error` is set. Whoever gets it closes
                the registry.
            RepositoryError: there is no repository.
        """
        self.watch.remember()
        # Ensembles find their models loaded, or loading.
        names = sorted(self._at_start(), key=lambda name: (bool(self._lifecycle.members_on_disk(name)), name))
        loads = {name: self._threads.submit(self._lifecycle.bring_up, name, retry=False) for name in names}
        failures = {name: error for name, load in loads.items() if (error := load.exception()) is not None}
        fatal = [name for name in failures if self._options.exit_on_error or name in self._options.pinned]
        if fatal:
            reasons = "; ".join(str(failures[name]).strip() for name in fatal)
            raise InferError(ErrorCode.INTERNAL, f"failed to load all models: {reasons}")
        if self._options.control_mode is ControlMode.POLL:
            self.watch.start()

    def get(self, name: str, version: str = "") -> ServedModel:
        """The version that serves now; '' is the highest. One look into a dictionary.

        Raises:
            InferError: NOT_FOUND, UNAVAILABLE or INVALID_ARG in Triton's words.
        """
        return self._table.get(name, version)

    def served(self, name: str) -> list[ServedModel]:
        """The versions of a model that are ready, rising; none for a model that is not there."""
        return self._table.of(name)

    def versions(self, name: str) -> list[int]:
        """The numbers of `served`."""
        return [served.spec.version for served in self._table.of(name)]

    def all(self) -> list[ServedModel]:
        """Every version that is ready, by model and number."""
        return self._table.serving()

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether it can be asked now; '' is any version.

        Raises:
            InferError: INVALID_ARG, the version is no number.
        """
        try:
            self._table.get(name, version)
        except InferError as error:
            if error.code is ErrorCode.INVALID_ARG:
                raise
            return False
        return True

    def spec(self, name: str, version: str) -> ModelSpec:
        """What a model takes and gives. Raises InferError as `get`."""
        return self._table.get(name, version).spec

    def infer(self, name: str, version: str, request: InferRequest) -> None:
        """Check a request and submit it, to a newer version where that takes over meanwhile. Raises InferError."""
        last = None
        while True:
            model = self._table.get(name, version)
            if model is last:  # retired without a successor: the server closes
                raise unavailable(
                    f"Request for unknown model: '{name}' version {model.spec.version} is not at ready state"
                )
            request.batch_size = check(model.spec, request.inputs, request.output_names, request.id)
            try:
                model.infer([request])
            except Retired:
                last = model
            else:
                return

    def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """RepositoryIndex: what the repository holds, loaded or not, and what is loaded though it is not there."""
        try:
            names = set(self._roots.names())
        except RepositoryError:
            names = set()
        lines = {name: [IndexEntry(name, "", ModelState.UNKNOWN.value, "")] for name in names}
        for record in self._table.records():
            known = self._table.index(record)
            if known and (record.name in names or any(line.state != ModelState.UNAVAILABLE for line in known)):
                lines[record.name] = known
        ready = ModelState.READY
        return [line for name in sorted(lines) for line in lines[name] if not ready_only or line.state == ready]

    def load(self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model, and the models it is made of with it, waiting for it.

        Without a config a version of which nothing changed goes on as it is, and a config or files that an earlier
        load brought give way to what is on disk.

        Args:
            name: the model.
            config_json: a ModelConfig that stands in for config.pbtxt.
            files: by path in the model's directory (`1/model.py`), standing in for the whole of it; with a config only.

        Raises:
            InferError: with the reason, in Triton's words; what served before still does.
        """
        self._check_control(name)
        self._lifecycle.bring_up(name, LoadRequest(config_json, files or {}))

    def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Unload a model and the ensembles that use it; nothing if it is not loaded.

        Requests in flight are answered, and the model is freed after the last; only those of ensembles that use it are
        waited for, for a while. `unload_dependents` takes the models with it that an ensemble is made of.

        Raises:
            InferError: it may not be unloaded, or is still being loaded.
        """
        self._check_control(name)
        record = self._table.find(name)
        if record is None:
            return
        threads = self._lifecycle.take_down(record, wanted=False)
        if not unload_dependents:
            return
        for thread in threads if record.members else ():
            thread.join(UNLOAD_WAIT_S)
        for member in record.members:
            if member not in self._options.pinned:
                self.unload(member, unload_dependents=True)

    def close(self) -> None:
        """Load nothing more, answer what is in flight and free every model; ensembles first.

        Blocks, but not for longer than `lifecycle.CLOSE_WAIT_S`, after which a model that does not come back is left.
        """
        self.watch.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._lifecycle.close()

    def _at_start(self) -> set[str]:
        startup = self._options.startup_models
        if self._options.control_mode is ControlMode.EXPLICIT and startup != (ALL_MODELS,):
            return {*startup, *self._options.pinned}
        return {*self._roots.names(), *self._options.pinned}

    def _check_control(self, name: str) -> None:
        if self._options.control_mode is not ControlMode.EXPLICIT:
            raise unavailable("explicit model load / unload is not allowed if polling is enabled")
        if name in self._options.pinned:
            raise InferError(
                ErrorCode.UNSUPPORTED,
                f"model '{name}' is served for the life of the server: it cannot be loaded, reloaded or unloaded",
            )
