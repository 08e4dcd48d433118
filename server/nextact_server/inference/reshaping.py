"""Between the shape the world knows of a tensor (`dims`) and the one its model computes with (`reshape`)."""

from collections.abc import Sequence

from nextact_server.inference.infer_spec import TensorSpec
from nextact_server.inference.tensors import Tensor

__all__ = ["from_model_shape", "to_model_shape"]

VARIABLE = -1


def to_model_shape(tensor: Tensor, spec: TensorSpec, batch_axes: int) -> Tensor:
    """A view of an input in the model's own shape. `batch_axes` leading axes (0 or 1) stay as they are."""
    if spec.reshape is None:
        return tensor
    batch, shape = tensor.shape[:batch_axes], tensor.shape[batch_axes:]
    return tensor.reshape(batch + _filled(spec.reshape, spec.dims, shape))


def from_model_shape(tensor: Tensor, spec: TensorSpec, batch_axes: int) -> Tensor:
    """A view of an output in the shape that the world knows.

    Raises:
        ValueError: the model gave something that cannot have that shape.
    """
    if spec.reshape is None:
        return tensor
    batch, shape = tensor.shape[:batch_axes], tensor.shape[batch_axes:]
    if len(shape) != len(spec.reshape):
        raise ValueError(f"has shape {list(shape)}, and its reshape is {list(spec.reshape)}")
    return tensor.reshape(batch + _filled(spec.dims, spec.reshape, shape))


def _filled(target: Sequence[int], source: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """`target` with the sizes of the variable dimensions of `source`, in order, as Triton matches them."""
    sizes = iter([size for size, dim in zip(shape, source, strict=True) if dim == VARIABLE])
    return tuple(next(sizes) if dim == VARIABLE else dim for dim in target)
