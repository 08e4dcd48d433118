"""A configuration's inputs, outputs and batching completed from what a model file says of itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.tensors import DataType
from nextact_server.repository.config import ModelConfig

__all__ = ["TensorIO", "complete_io"]

VARIABLE = -1


@dataclass(frozen=True, slots=True)
class TensorIO:
    """A tensor of a model file by its full shape, the batch axis included; -1 is a variable dimension.

    `most`: the largest size its first axis may have; 0 where the file sets no bound.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    most: int = 0


def complete_io(
    config: ModelConfig, inputs: Sequence[TensorIO], outputs: Sequence[TensorIO], default_max_batch_size: int
) -> ModelConfig:
    """A copy of the configuration with the inputs and outputs that it leaves out, as Triton's ONNX backend does it.

    A configuration with neither, without `max_batch_size`, batches if the first axis of every tensor is variable: up to
    `default_max_batch_size` (0: not at all). What is completed and batches gets dynamic batching, unless the
    configuration names another scheduler.

    Raises:
        InferError: `max_batch_size` is set for a model whose first axis is not variable.
    """
    done = model_config_pb2.ModelConfig()
    done.CopyFrom(config)
    tensors = [*inputs, *outputs]
    can_batch = all(tensor.shape and tensor.shape[0] == VARIABLE for tensor in tensors)
    if can_batch and not config.input and not config.output and not config.max_batch_size:
        bounds = [tensor.most for tensor in tensors if tensor.most]
        done.max_batch_size = min([default_max_batch_size, *bounds])
    if not can_batch and config.max_batch_size:
        raise invalid_argument(
            f"autofill failed for model '{config.name}': model does not support batching while non-zero max_batch_size "
            "is specified"
        )
    if done.max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
        done.dynamic_batching.SetInParent()
    skipped = 1 if done.max_batch_size else 0
    for field, found in ((done.input, inputs), (done.output, outputs)):
        if field:
            continue
        for tensor in found:
            datatype = model_config_pb2.DataType.Value(tensor.datatype.config_name)
            _add(field, tensor, datatype, tensor.shape[skipped:], bool(skipped))
    return done


def _add(field: ModelConfig, tensor: TensorIO, datatype: int, dims: Sequence[int], batches: bool) -> None:
    if dims:
        field.add(name=tensor.name, data_type=datatype, dims=dims)
        return
    # A configuration cannot hold a scalar: it is one element there, and a reshape takes that axis from the model.
    added = field.add(name=tensor.name, data_type=datatype, dims=[1])
    if batches:
        added.reshape.SetInParent()
