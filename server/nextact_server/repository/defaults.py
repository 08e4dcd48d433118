"""What Triton fills into a configuration before it shows it (ModelConfig) and acts upon it."""

from nextact_server.inference.device import DeviceError, choose_device
from nextact_server.repository.backend_choice import is_ensemble
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.placement import gpu_count

__all__ = ["DEFAULT_IDLE_US", "fill_defaults"]

DEFAULT_IDLE_US = 1_000_000


def fill_defaults(config: ModelConfig) -> None:
    """Fill in version policy, batching, instance groups and pinned memory as Triton 2.51 does.

    Unlike there, KIND_AUTO becomes KIND_GPU with one GPU, not with all of them: several models share a machine here.
    """
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    _fill_batching(config)
    if is_ensemble(config):
        # Present, and empty.
        config.model_transaction_policy.decoupled = config.model_transaction_policy.decoupled
        return
    _fill_groups(config)
    # As Triton shows it; a buffer is pinned where a backend finds that it helps.
    for pinned in (config.optimization.input_pinned_memory, config.optimization.output_pinned_memory):
        pinned.enable = True


def _fill_batching(config: ModelConfig) -> None:
    schedule = config.WhichOneof("scheduling_choice")
    if schedule == "dynamic_batching":
        dynamic = config.dynamic_batching
        if config.max_batch_size > 0 and not dynamic.preferred_batch_size:
            dynamic.preferred_batch_size.append(config.max_batch_size)
    elif schedule == "sequence_batching":
        sequence = config.sequence_batching
        if not sequence.max_sequence_idle_microseconds:
            sequence.max_sequence_idle_microseconds = DEFAULT_IDLE_US
        if sequence.WhichOneof("strategy_choice") == "oldest" and config.max_batch_size > 0:
            oldest = sequence.oldest
            if not oldest.preferred_batch_size:
                oldest.preferred_batch_size.append(config.max_batch_size)


def _fill_groups(config: ModelConfig) -> None:
    if not config.instance_group:
        config.instance_group.add(name=config.name)
    for number, group in enumerate(config.instance_group):
        if not group.name:
            group.name = f"{config.name}_{number}"
        if group.count < 1:
            group.count = 1
        kinds = type(group)
        if group.kind == kinds.KIND_AUTO:
            group.kind = kinds.KIND_GPU if _finds_gpu() else kinds.KIND_CPU
            if group.kind == kinds.KIND_GPU and not group.gpus:
                group.gpus.append(0)
        elif group.kind == kinds.KIND_GPU and not group.gpus:
            group.gpus.extend(range(gpu_count()))


def _finds_gpu() -> bool:
    try:
        return choose_device("KIND_AUTO") == "cuda"
    except DeviceError:
        return False
