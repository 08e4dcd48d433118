"""The scheduler that a specification asks for."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nextact_server.inference.batcher import BatchObserver
from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching
from nextact_server.inference.instance import ModelDoor, Scheduler
from nextact_server.inference.rate_limiter import Runs
from nextact_server.inference.response_cache import ResponseCache
from nextact_server.inference.scheduling.caching import CachingScheduler
from nextact_server.inference.scheduling.dynamic import make_batching_scheduler
from nextact_server.inference.scheduling.ensemble import EnsembleScheduler
from nextact_server.inference.scheduling.sequence import SequenceScheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import Tensor

__all__ = ["make_scheduler", "with_cache"]

logger = logging.getLogger(__name__)

_loads = itertools.count()


def make_scheduler(
    spec: ModelSpec,
    executions: Sequence[Runs],
    statistics: ModelStatistics,
    *,
    models: ModelDoor,
    initial_state: Mapping[str, Tensor],
    observer: BatchObserver | None = None,
) -> Scheduler:
    """The scheduler of a model version by its `schedule`; for an ensemble there are no executions.

    Raises:
        InferError: an initial state, or an ensemble's models, that do not fit.
    """
    if isinstance(spec.schedule, tuple):
        return EnsembleScheduler(spec, models, statistics)
    if isinstance(spec.schedule, SequenceBatching):
        return SequenceScheduler(spec, executions, statistics, initial_state=initial_state)
    return make_batching_scheduler(spec, executions, statistics, observer=observer)


def with_cache(
    scheduler: Scheduler, spec: ModelSpec, statistics: ModelStatistics, cache: ResponseCache | None
) -> Scheduler:
    """The scheduler behind the response cache, where the model asks for it and the server has one."""
    if not spec.response_cache:
        return scheduler
    if cache is None:
        logger.warning(
            "model '%s' sets response_cache, but the server has no response cache: response_cache_bytes is 0", spec.name
        )
        return scheduler
    # What is cached goes by the spec. A version that is loaded anew must not be answered for by the one before it.
    of_this_load = replace(spec, name=f"{spec.name}#{next(_loads)}")
    return CachingScheduler(scheduler, cache, of_this_load, statistics)
