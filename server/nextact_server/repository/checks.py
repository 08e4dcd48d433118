"""Checks of a configuration as a whole, in Triton's words: what is refused before anything of the model is loaded."""

from pathlib import Path

from nextact_server.repository.backend_choice import is_ensemble
from nextact_server.repository.check_ensemble import check_steps
from nextact_server.repository.check_sequence import check_sequence
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.errors import RepositoryError

__all__ = ["check_config"]


def check_config(config: ModelConfig, path: Path, directory: str) -> None:
    """Check name, batching, priorities, sequences, cache and the steps of an ensemble.

    Args:
        config: as it was read, or completed.
        path: what messages name as its place.
        directory: the model's directory, whose name it must have; an empty name is set to it.

    Raises:
        RepositoryError: with the first thing that is wrong.
    """
    if not config.name:
        config.name = directory
    reason = _name(config, directory) or _batching(config) or _cache(config) or _scheduler(config)
    if reason:
        raise RepositoryError(path, reason)


def _name(config: ModelConfig, directory: str) -> str:
    if config.name == directory:
        return ""
    return f"unexpected directory name '{directory}' for model '{config.name}', directory name must equal model name"


def _batching(config: ModelConfig) -> str:
    name, most = config.name, config.max_batch_size
    if most < 0:
        return f"'max_batch_size' must be non-negative value for {name}"
    if config.HasField("dynamic_batching"):
        dynamic = config.dynamic_batching
        return _preferred("dynamic", name, most, dynamic.preferred_batch_size) or _priorities(config)
    if config.HasField("sequence_batching"):
        sequence = config.sequence_batching
        preferred = sequence.oldest.preferred_batch_size if sequence.HasField("oldest") else ()
        return _preferred("sequence", name, most, preferred) or check_sequence(config)
    return ""


def _preferred(batching: str, name: str, most: int, sizes: list[int] | tuple[int, ...]) -> str:
    tail = "preferred size" if batching == "dynamic" else "preferred batch size"
    for size in sizes:
        if size <= 0:
            return f"{batching} batching {tail} must be positive for {name}"
        if size > most:
            return f"{batching} batching {tail} must be <= max batch size for {name}"
    return ""


def _priorities(config: ModelConfig) -> str:
    dynamic, name = config.dynamic_batching, config.name
    levels = dynamic.priority_levels
    if not levels:
        return ""
    if not 1 <= dynamic.default_priority_level <= levels:
        return f"default priority level must be in range [1, {levels}] for {name}"
    if any(not 1 <= level <= levels for level in dynamic.priority_queue_policy):
        return f"priority queue policy must have priority level in range [1, {levels}] for {name}"
    return ""


def _cache(config: ModelConfig) -> str:
    if not config.response_cache.enable:
        return ""
    if config.model_transaction_policy.decoupled:
        what = "'decoupled' transaction policy"
    elif config.HasField("sequence_batching"):
        what = "sequence batching scheduler"
    else:
        return ""
    return (
        f"Response Cache does not currently support model {config.name} with {what}. Please disable the response cache."
    )


def _scheduler(config: ModelConfig) -> str:
    name = config.name
    if is_ensemble(config):
        if not config.HasField("ensemble_scheduling"):
            return f"ensemble scheduling must be set for ensemble {name} whose platform is ensemble"
        return check_steps(config)
    if config.HasField("ensemble_scheduling"):
        return f"ensemble scheduling cannot be set for model {name} whose platform is not ensemble"
    return ""
