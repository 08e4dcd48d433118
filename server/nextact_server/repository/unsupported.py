"""The one table of what a config.pbtxt may say that this server does not act upon, and why."""

import logging
from dataclasses import dataclass

from nextact_server.repository.config import ModelConfig

__all__ = ["UNSUPPORTED", "UnsupportedField", "unsupported_fields", "warn_of_unsupported"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A field by its path in the configuration, and the reason it is passed over."""

    path: str
    reason: str


UNSUPPORTED: tuple[UnsupportedField, ...] = tuple(
    UnsupportedField(path, reason)
    for path, reason in {
        "runtime": "a backend is Python code of this server, not a shared library to choose",
        "optimization.graph": "backends choose their own graph optimisation",
        "optimization.priority": "instances run in threads of one process, which have no priorities",
        "optimization.cuda": "CUDA graphs and streams are the backends' own choice",
        "optimization.execution_accelerators": "no TensorRT or OpenVINO execution provider is offered for a model",
        "optimization.input_pinned_memory": "input buffers are not pinned",
        "optimization.output_pinned_memory": "output buffers are not pinned",
        "optimization.gather_kernel_buffer_threshold": "there is no gather kernel",
        "optimization.eager_batching": "a free instance takes its batch at once in any case",
        "input.format": "it serves to check the number of dims only; no layout is changed",
        "input.is_shape_tensor": "it is for TensorRT, which is not offered",
        "input.is_non_linear_format_io": "it is for TensorRT, which is not offered",
        "output.is_shape_tensor": "it is for TensorRT, which is not offered",
        "output.is_non_linear_format_io": "it is for TensorRT, which is not offered",
        "batch_output": "outputs are scattered by rows only",
        "sequence_batching.state.use_same_buffer_for_input_output": "it is a hint on memory; states are copied",
        "sequence_batching.state.use_growable_memory": "it is a hint on memory",
        "ensemble_scheduling.step.model_namespace": "there is one repository, and one name space",
        "ensemble_scheduling.max_inflight_requests": "the queues of an ensemble's models bound what is in flight",
        "instance_group.secondary_devices": "there is no NVDLA support",
        "instance_group.profile": "it is for TensorRT, which is not offered",
        "instance_group.passive": "every instance takes requests",
        "instance_group.host_policy": "instances are not bound to NUMA nodes",
        "cc_model_filenames": "a model is not chosen by compute capability; default_model_filename names it",
        "metric_tags": "metrics carry the model's name and version only",
        "model_operations": "there are no custom operations to load",
        "model_repository_agents": "there are no repository agents",
        "model_metrics": "histograms have fixed buckets",
    }.items()
)
"""What is passed over. A field that is unknown altogether is an error instead."""


def unsupported_fields(config: ModelConfig) -> list[UnsupportedField]:
    """Those of `UNSUPPORTED` that a configuration sets."""
    return [field for field in UNSUPPORTED if _is_set(config, field.path.split("."))]


def warn_of_unsupported(config: ModelConfig) -> None:
    """Log a warning for each field of the configuration that is passed over; one line per field."""
    for field in unsupported_fields(config):
        logger.warning("model '%s': config field %s is not supported: %s", config.name, field.path, field.reason)


def _is_set(message: ModelConfig, path: list[str]) -> bool:
    name, *rest = path
    for descriptor, value in message.ListFields():
        if descriptor.name != name:
            continue
        if not rest:
            return True
        return any(_is_set(one, rest) for one in (value if descriptor.is_repeated else [value]))
    return False
