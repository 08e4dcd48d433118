"""From a version's directory to a ServedModel that is warm and ready to take over."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from google.protobuf.message import Message

from nextact_server.inference.batcher import BatchObserver
from nextact_server.inference.execution import BatchListener, Execution
from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.instance import ModelDoor, ModelInstance, Scheduler
from nextact_server.inference.rate_limiter import RateLimiter, Runs, limited
from nextact_server.inference.response_cache import ResponseCache
from nextact_server.inference.scheduling.ensemble_check import check_ensemble
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.repository.backend import Backend, LoadedVersion, ModelContext
from nextact_server.repository.backend_choice import fill_backend, is_ensemble
from nextact_server.repository.check_tensors import check_tensors
from nextact_server.repository.checks import check_config
from nextact_server.repository.config import CONFIG_FILE, ModelConfig
from nextact_server.repository.defaults import fill_defaults
from nextact_server.repository.initial_state import initial_states
from nextact_server.repository.placement import placements
from nextact_server.repository.scheduling import make_scheduler, with_cache
from nextact_server.repository.served import ServedModel
from nextact_server.repository.source import ModelSource
from nextact_server.repository.spec import spec_of
from nextact_server.repository.warmup import warm_up

__all__ = ["VersionLoader"]


class VersionLoader:
    """Loads versions; any number of threads at once."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        models: ModelDoor,
        *,
        listener: BatchListener | None = None,
        limiter: RateLimiter | None = None,
        cache: ResponseCache | None = None,
        observer: BatchObserver | None = None,
    ) -> None:
        self._backends = backends
        self._models = models
        self._listener = listener
        self._limiter = limiter
        self._cache = cache
        self._observer = observer

    def load(self, source: ModelSource, version: int) -> ServedModel:
        """Complete, check, load, place and warm up one version; whatever was made is freed again if that fails.

        Raises:
            InferError, RepositoryError, or whatever the backend raises: why it cannot be served.
        """
        config = self._complete(source, version)
        spec = spec_of(config, version, source.model_dir)
        if is_ensemble(config) and check_ensemble(spec, self._models.spec):
            # As one of its models gives any number of responses, so does it.
            config.model_transaction_policy.decoupled = True
            spec = replace(spec, decoupled=True)
        with ExitStack() as made:
            statistics = ModelStatistics()
            scheduler, spec = self._schedule(source, config, spec, statistics, made)
            scheduler = with_cache(scheduler, spec, statistics, self._cache)
            return ServedModel(spec, config, statistics, scheduler, made.pop_all().close)

    def _complete(self, source: ModelSource, version: int) -> ModelConfig:
        config = _copy(source.config)
        version_dir = source.model_dir / str(version)
        fill_backend(config, version_dir)
        if not is_ensemble(config):
            config = self._backend(config).complete(config, version_dir)
        fill_defaults(config)
        check_config(config, source.model_dir / CONFIG_FILE, source.name)
        check_tensors(config)
        return config

    def _backend(self, config: ModelConfig) -> Backend:
        backend = self._backends.get(config.backend)
        if backend is None:
            raise invalid_argument(
                f"unable to find backend library for backend '{config.backend}', try specifying runtime on the model "
                "configuration."
            )
        return backend

    def _schedule(
        self, source: ModelSource, config: ModelConfig, spec: ModelSpec, statistics: ModelStatistics, made: ExitStack
    ) -> tuple[Scheduler, ModelSpec]:
        if is_ensemble(config):
            return make_scheduler(spec, (), statistics, models=self._models, initial_state={}), spec
        version_dir = source.model_dir / str(spec.version)
        context = ModelContext(source.model_dir, version_dir, config, spec, statistics, self._models)
        loaded = self._backend(config).load(context)
        made.callback(loaded.close)
        own = loaded.scheduler()
        if own is not None:
            # What the config says of scheduling is for callers to read: the rules of sequences are not this model's.
            return own, replace(spec, schedule=None)
        instances, executions = self._place(loaded, spec, statistics, made)
        states = initial_states(config, source.model_dir)
        warm_up(config, spec, source.model_dir, instances, states)
        scheduler = make_scheduler(
            spec, executions, statistics, models=self._models, initial_state=states, observer=self._observer
        )
        return scheduler, spec

    def _place(
        self, loaded: LoadedVersion, spec: ModelSpec, statistics: ModelStatistics, made: ExitStack
    ) -> tuple[list[ModelInstance], list[Runs]]:
        instances: list[ModelInstance] = []
        executions: list[Runs] = []
        for placement in placements(spec):
            if self._limiter is not None:
                self._limiter.register(placement)
                made.callback(self._limiter.unregister, placement)
            instance = loaded.instance(placement)
            made.callback(instance.close)
            instances.append(instance)
            executions.append(limited(Execution(instance, statistics, self._listener), placement, self._limiter))
        return instances, executions


def _copy(config: ModelConfig) -> ModelConfig:
    copy: Message = type(config)()
    copy.CopyFrom(config)
    return copy
