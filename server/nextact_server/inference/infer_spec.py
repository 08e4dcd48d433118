"""What a model version takes, gives and how it wants to be scheduled: a config.pbtxt as plain values.

Names follow Triton's model_config.proto; times are in microseconds as there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from nextact_server.inference.tensors import DataType

__all__ = [
    "BatchInput",
    "ControlKind",
    "DynamicBatching",
    "EnsembleStep",
    "InstanceGroup",
    "ModelSpec",
    "Placement",
    "QueuePolicy",
    "Schedule",
    "SequenceBatching",
    "SequenceControl",
    "SequenceState",
    "TensorSpec",
    "TimeoutAction",
]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output without the batch axis: -1 is a variable dimension. `reshape`: what the model itself sees."""

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    ragged: bool = False
    labels: tuple[str, ...] = ()


class TimeoutAction(Enum):
    """What becomes of a request that waited too long."""

    REJECT = 0
    DELAY = 1


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """ModelQueuePolicy; 0 means no timeout, and no bound."""

    timeout_action: TimeoutAction = TimeoutAction.REJECT
    default_timeout_us: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """ModelDynamicBatching."""

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: Mapping[int, QueuePolicy] = field(default_factory=dict)


class ControlKind(Enum):
    """ModelSequenceBatching.Control.Kind."""

    START = "CONTROL_SEQUENCE_START"
    READY = "CONTROL_SEQUENCE_READY"
    END = "CONTROL_SEQUENCE_END"
    CORRID = "CONTROL_SEQUENCE_CORRID"


@dataclass(frozen=True, slots=True)
class SequenceControl:
    """A control input: shape [1] per row. `false_true` holds its two values; CORRID has `datatype` alone."""

    name: str
    kind: ControlKind
    datatype: DataType
    false_true: tuple[float, float] = (0, 1)


@dataclass(frozen=True, slots=True)
class SequenceState:
    """Implicit state: what the model writes to `output_name` comes back as `input_name` at the sequence's next request.

    The first value is the file `initial_file` (relative to the model's `initial_state` directory), or zeros.
    """

    input_name: str
    output_name: str
    datatype: DataType
    dims: tuple[int, ...]
    initial_file: str = ""


@dataclass(frozen=True, slots=True)
class SequenceBatching:
    """ModelSequenceBatching. `strategy` is 'direct' or 'oldest'."""

    strategy: str = "direct"
    max_sequence_idle_us: int = 1_000_000
    controls: tuple[SequenceControl, ...] = ()
    states: tuple[SequenceState, ...] = ()
    iterative: bool = False
    max_queue_delay_us: int = 0
    minimum_slot_utilization: float = 0.0
    max_candidate_sequences: int = 0
    preferred_batch_size: tuple[int, ...] = ()
    preserve_ordering: bool = False


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """One step: a model, and how its tensors (keys) are called in the ensemble (values). `version` '' is the latest."""

    model: str
    version: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


Schedule = None | DynamicBatching | SequenceBatching | tuple[EnsembleStep, ...]
"""None: requests go to instances one by one as they come (Triton's default scheduler)."""


@dataclass(frozen=True, slots=True)
class BatchInput:
    """ModelConfig.batch_input: what a ragged batch says of itself."""

    kind: str
    names: tuple[str, ...]
    datatype: DataType
    source_inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`count` instances on the CPU, on each of `gpus`, or (KIND_MODEL) wherever the model goes itself.

    `resources` are what an instance needs of the rate limiter: (name, global, count); `rate_priority` its weight there.
    """

    name: str = ""
    kind: str = "KIND_AUTO"
    count: int = 1
    gpus: tuple[int, ...] = ()
    resources: tuple[tuple[str, bool, int], ...] = ()
    rate_priority: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one instance runs: its unique name (Triton's `<group>_<i>`), `device` 'cpu' or 'cuda:N', and its group."""

    name: str
    device: str
    group: InstanceGroup


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of a model. `max_batch_size` 0: the model does not batch."""

    name: str
    version: int
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    decoupled: bool = False
    schedule: Schedule = None
    instance_groups: tuple[InstanceGroup, ...] = (InstanceGroup(),)
    response_cache: bool = False
    batch_inputs: tuple[BatchInput, ...] = ()
