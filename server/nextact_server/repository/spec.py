"""A completed configuration as plain values: ModelConfig to ModelSpec."""

from collections.abc import Sequence
from pathlib import Path

from nextact_server.inference.infer_errors import internal
from nextact_server.inference.infer_spec import (
    BatchInput,
    ControlKind,
    DynamicBatching,
    EnsembleStep,
    InstanceGroup,
    ModelSpec,
    QueuePolicy,
    Schedule,
    SequenceBatching,
    SequenceControl,
    SequenceState,
    TensorSpec,
    TimeoutAction,
)
from nextact_server.inference.tensors import DataType
from nextact_server.repository.config import ModelConfig

__all__ = ["data_type", "spec_of"]

_LATEST = -1
_CONTROL_TYPES = (
    ("int32_false_true", DataType.INT32),
    ("fp32_false_true", DataType.FP32),
    ("bool_false_true", DataType.BOOL),
)


def spec_of(config: ModelConfig, version: int, model_dir: Path) -> ModelSpec:
    """The plain values of a configuration that was completed and checked; labels are read from beside it.

    Raises:
        InferError: INTERNAL, a label file that cannot be read.
    """
    return ModelSpec(
        name=config.name,
        version=version,
        platform=config.platform or config.backend,
        inputs=tuple(
            TensorSpec(
                tensor.name,
                data_type(tensor),
                tuple(tensor.dims),
                reshape=_reshape(tensor),
                optional=tensor.optional,
                ragged=tensor.allow_ragged_batch,
            )
            for tensor in config.input
        ),
        outputs=tuple(
            TensorSpec(
                tensor.name,
                data_type(tensor),
                tuple(tensor.dims),
                reshape=_reshape(tensor),
                labels=_labels(tensor.label_filename, model_dir),
            )
            for tensor in config.output
        ),
        max_batch_size=config.max_batch_size,
        decoupled=config.model_transaction_policy.decoupled,
        schedule=_schedule(config),
        instance_groups=tuple(_group(group) for group in config.instance_group),
        response_cache=config.response_cache.enable,
        batch_inputs=tuple(
            BatchInput(
                type(each).Kind.Name(each.kind), tuple(each.target_name), data_type(each), tuple(each.source_input)
            )
            for each in config.batch_input
        ),
    )


def data_type(message: ModelConfig) -> DataType:
    """The `data_type` field of a tensor, control or warm-up input. Raises ValueError for TYPE_INVALID."""
    enum = message.DESCRIPTOR.fields_by_name["data_type"].enum_type
    return DataType.from_config(enum.values_by_number[message.data_type].name)


def _reshape(tensor: ModelConfig) -> tuple[int, ...] | None:
    return tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None


def _labels(filename: str, model_dir: Path) -> tuple[str, ...]:
    if not filename:
        return ()
    path = model_dir / filename
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise internal(f"failed to read text file {path}: it is not UTF-8") from error
    except OSError as error:
        raise internal(f"failed to open text file for read {path}: {error.strerror}") from error


def _schedule(config: ModelConfig) -> Schedule:
    choice = config.WhichOneof("scheduling_choice")
    if choice == "dynamic_batching":
        return _dynamic(config)
    if choice == "sequence_batching":
        return _sequence(config)
    if choice == "ensemble_scheduling":
        return tuple(
            EnsembleStep(
                step.model_name,
                "" if step.model_version == _LATEST else str(step.model_version),
                dict(step.input_map),
                dict(step.output_map),
            )
            for step in config.ensemble_scheduling.step
        )
    return None


def _dynamic(config: ModelConfig) -> DynamicBatching:
    dynamic = config.dynamic_batching
    return DynamicBatching(
        preferred_batch_size=_preferred(dynamic.preferred_batch_size, config.max_batch_size),
        max_queue_delay_us=dynamic.max_queue_delay_microseconds,
        preserve_ordering=dynamic.preserve_ordering,
        priority_levels=dynamic.priority_levels,
        default_priority_level=dynamic.default_priority_level,
        default_queue_policy=_queue_policy(dynamic.default_queue_policy),
        priority_queue_policy={level: _queue_policy(policy) for level, policy in dynamic.priority_queue_policy.items()},
    )


def _preferred(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """The size that is filled in where none is set says nothing: every batcher prefers full batches."""
    return () if tuple(sizes) == (most,) else tuple(sorted(sizes))


def _queue_policy(policy: ModelConfig) -> QueuePolicy:
    return QueuePolicy(
        timeout_action=TimeoutAction(policy.timeout_action),
        default_timeout_us=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _sequence(config: ModelConfig) -> SequenceBatching:
    sequence = config.sequence_batching
    is_oldest = sequence.HasField("oldest")
    strategy = sequence.oldest if is_oldest else sequence.direct
    return SequenceBatching(
        strategy="oldest" if is_oldest else "direct",
        max_sequence_idle_us=sequence.max_sequence_idle_microseconds,
        controls=tuple(
            _control(tensor.name, control) for tensor in sequence.control_input for control in tensor.control
        ),
        states=tuple(
            SequenceState(
                state.input_name,
                state.output_name,
                data_type(state),
                tuple(state.dims),
                state.initial_state[0].data_file if state.initial_state else "",
            )
            for state in sequence.state
        ),
        iterative=sequence.iterative_sequence,
        max_queue_delay_us=strategy.max_queue_delay_microseconds,
        minimum_slot_utilization=0.0 if is_oldest else sequence.direct.minimum_slot_utilization,
        max_candidate_sequences=sequence.oldest.max_candidate_sequences if is_oldest else 0,
        preferred_batch_size=_preferred(sequence.oldest.preferred_batch_size, config.max_batch_size),
        preserve_ordering=sequence.oldest.preserve_ordering if is_oldest else False,
    )


def _control(name: str, control: ModelConfig) -> SequenceControl:
    kind = ControlKind(type(control).Kind.Name(control.kind))
    for field, datatype in _CONTROL_TYPES:
        values = getattr(control, field)
        if len(values):
            return SequenceControl(name, kind, datatype, (float(values[0]), float(values[1])))
    return SequenceControl(name, kind, data_type(control))


def _group(group: ModelConfig) -> InstanceGroup:
    limiter = group.rate_limiter
    return InstanceGroup(
        name=group.name,
        kind=type(group).Kind.Name(group.kind),
        count=group.count,
        gpus=tuple(group.gpus),
        resources=tuple((each.name, getattr(each, "global"), each.count) for each in limiter.resources),
        rate_priority=limiter.priority,
    )
