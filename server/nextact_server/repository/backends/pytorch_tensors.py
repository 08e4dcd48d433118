"""numpy arrays as torch tensors and back, without a copy."""

from typing import Any

import ml_dtypes
import numpy as np
import torch

from nextact_server.inference.tensors import DataType, Tensor

__all__ = ["TorchValue", "datatype_of_torch", "from_torch", "to_torch"]

TorchValue = torch.Tensor | list[str]
"""What a TorchScript model takes and gives: a tensor, or List[str] for a BYTES tensor of one axis."""

_BF16 = np.dtype(ml_dtypes.bfloat16)
_DATATYPES = {
    torch.bool: DataType.BOOL,
    torch.uint8: DataType.UINT8,
    torch.uint16: DataType.UINT16,
    torch.uint32: DataType.UINT32,
    torch.uint64: DataType.UINT64,
    torch.int8: DataType.INT8,
    torch.int16: DataType.INT16,
    torch.int32: DataType.INT32,
    torch.int64: DataType.INT64,
    torch.float16: DataType.FP16,
    torch.float32: DataType.FP32,
    torch.float64: DataType.FP64,
    torch.bfloat16: DataType.BF16,
}


class _Lent:
    """Lets numpy see an array as writable, and keeps it alive.

    torch has no read-only tensors and warns of every array that is. What it is given here it only reads: whoever runs a
    model that writes to an input copies that input first.
    """

    def __init__(self, array: Tensor) -> None:
        interface: dict[str, Any] = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._array = array


def datatype_of_torch(dtype: torch.dtype) -> DataType | None:
    """The protocol's datatype, where it has one."""
    return _DATATYPES.get(dtype)


def to_torch(array: Tensor) -> TorchValue:
    """A tensor over the same memory, which must not be written to; a list of the texts of a BYTES array."""
    if array.dtype == np.object_:
        return [element.decode() if isinstance(element, bytes) else str(element) for element in array.reshape(-1)]
    if array.dtype == _BF16:
        words = to_torch(array.view(np.uint16))
        assert isinstance(words, torch.Tensor)
        return words.view(torch.bfloat16)
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    if not array.flags.writeable:
        array = np.asarray(_Lent(array))
    return torch.from_numpy(array)


def from_torch(value: TorchValue) -> Tensor:
    """An array over the memory of a tensor that is on the CPU; BYTES for a list of texts.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().resolve_conj().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            words: Tensor = tensor.view(torch.uint16).numpy()
            return words.view(_BF16)
        return tensor.numpy()
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        texts = np.empty(len(value), np.object_)
        texts[:] = [text.encode() for text in value]
        return texts
    raise TypeError(f"must be of type Tensor or List[str], and is {type(value).__name__}")
