"""Checks of what a completed configuration says of tensors and instances, in Triton's words; they fail a version."""

from collections.abc import Sequence
from math import prod

from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.repository.backend_choice import is_ensemble
from nextact_server.repository.check_sequence import check_states
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.placement import gpu_count

__all__ = ["check_tensors"]

MAX_INSTANCES = 1024
"""Instances of one model: each has a thread, and a slip of a digit must not use up the machine."""


def check_tensors(config: ModelConfig) -> None:
    """Check inputs, outputs, batch inputs, states and instance groups.

    Raises:
        InferError: INVALID_ARG with the first thing that is wrong.
    """
    for kind, tensors in (("input", config.input), ("output", config.output)):
        names: set[str] = set()
        for tensor in tensors:
            _check_tensor(config, kind, tensor)
            if tensor.name in names:
                # Triton takes it, and mixes the two up.
                raise invalid_argument(f"model {kind} '{tensor.name}' is specified more than once for {config.name}")
            names.add(tensor.name)
    for tensor in config.input:
        if tensor.format and len(tensor.dims) != 3:
            raise invalid_argument(f"model input NHWC/NCHW require 3 dims for {config.name}")
    _check_batch_io(config)
    problem = check_states(config)
    if problem:
        raise invalid_argument(problem)
    if not is_ensemble(config):
        _check_groups(config)


def _check_tensor(config: ModelConfig, kind: str, tensor: ModelConfig) -> None:
    name = config.name
    if not tensor.name:
        raise invalid_argument(f"model {kind} must specify 'name' for {name}")
    if not tensor.data_type or tensor.data_type not in model_config_pb2.DataType.values():  # JSON may bring any number
        raise invalid_argument(f"model {kind} '{tensor.name}' must specify 'data_type' for {name}")
    # A shape of no dims is said by a reshape or by a batch axis alone, never by dims.
    if not tensor.dims:
        raise invalid_argument(f"model {kind} '{tensor.name}' must specify 'dims' for {name}")
    _check_dims(name, kind, tensor.name, "dimension", tensor.dims)
    if tensor.HasField("reshape"):
        _check_dims(name, kind, tensor.name, "reshape dimensions", tensor.reshape.shape)
        if not _same_size(tensor.dims, tensor.reshape.shape):
            raise invalid_argument(f"model {kind} '{tensor.name}' has different size for dims and reshape for {name}")


def _check_dims(name: str, kind: str, tensor: str, what: str, dims: Sequence[int]) -> None:
    if any(dim < 1 and dim != -1 for dim in dims):
        raise invalid_argument(
            f"model {kind} '{tensor}' {what} must be integer >= 1, or -1 to indicate a variable-size dimension for "
            f"{name}"
        )


def _same_size(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether elements agree, part by part between the variable dimensions, as Triton compares them."""
    return _parts(dims) == _parts(shape)


def _parts(dims: Sequence[int]) -> list[int]:
    parts: list[list[int]] = [[]]
    for dim in dims:
        if dim == -1:
            parts.append([])
        else:
            parts[-1].append(dim)
    return [prod(part) for part in parts]


def _check_batch_io(config: ModelConfig) -> None:
    inputs = {tensor.name for tensor in config.input}
    for each in (*config.batch_input, *config.batch_output):
        for source in each.source_input:
            if source not in inputs:
                raise invalid_argument(f"unknown source input name '{source}' for {config.name}")
    for each in config.batch_input:
        if not each.target_name:
            raise invalid_argument(f"batch input must specify 'target_name' for {config.name}")
        if len(each.source_input) != 1:
            kind = type(each).Kind.Name(each.kind)
            raise invalid_argument(
                f"batch input kind '{kind}' expects 1 source input, got {len(each.source_input)} for {config.name}"
            )
        if each.data_type not in (model_config_pb2.TYPE_INT32, model_config_pb2.TYPE_FP32):
            raise invalid_argument(f"batch input data type must be TYPE_INT32 or TYPE_FP32 for {config.name}")
    outputs = {tensor.name for tensor in config.output}
    for each in config.batch_output:
        for target in each.target_name:
            if target not in outputs:
                raise invalid_argument(f"unknown target output name '{target}' for {config.name}")


def _check_groups(config: ModelConfig) -> None:
    count = sum(group.count * max(len(group.gpus), 1) for group in config.instance_group)
    if count > MAX_INSTANCES:
        raise invalid_argument(
            f"model {config.name} has {count} instances by its instance_group; at most {MAX_INSTANCES} are run"
        )
    for group in config.instance_group:
        kind = type(group).Kind.Name(group.kind)
        where = f"instance group {group.name} of model {config.name}"
        if kind in ("KIND_CPU", "KIND_MODEL") and group.gpus:
            raise invalid_argument(f"{where} has kind {kind} but specifies one or more GPUs")
        if kind == "KIND_GPU":
            _check_gpus(where, group.gpus)


def _check_gpus(where: str, gpus: Sequence[int]) -> None:
    if not gpus:
        raise invalid_argument(f"{where} has kind KIND_GPU but no GPUs are available")
    count = gpu_count()
    wrong = next((gpu for gpu in gpus if not 0 <= gpu < count), None)
    if wrong is not None:
        raise _invalid_gpu(where, wrong, count)


def _invalid_gpu(where: str, gpu: int, count: int) -> InferError:
    there = ", ".join(map(str, range(count)))
    return invalid_argument(
        f"{where} specifies invalid or unsupported gpu id {gpu}. GPUs with at least the minimum required CUDA compute "
        f"compatibility of 6.000000 are: {there}"
    )
