"""`pb_utils.Tensor`: a named array in a model's hands."""

from typing import Any, Self

import ml_dtypes
import numpy as np

from nextact_server.inference.tensors import DataType
from nextact_server.inference.tensors import Tensor as Array
from nextact_server.repository.backends.python.errors import TritonModelException, incompatible

__all__ = ["Tensor", "as_bytes", "shared_tensor"]

_BF16 = DataType.BF16.numpy
_CODES = {datatype.numpy: code for code, datatype in enumerate(DataType, start=1)}
"""The numbers of TRITONSERVER_DataType, which are those of the config's `data_type`."""
_BYTES_CODE = _CODES[DataType.BYTES.numpy]
_CPU_DEVICE = (1, 0)


class Tensor:
    """A named array.

    A tensor that a model was given shares its memory with the server, which may need it again (for a batch that is run
    by halves, for the cache, for another model). So the first `as_numpy` of such a tensor copies it: the array is the
    model's own, and may be written to as in Triton. Inputs that are never looked at are never copied.
    """

    __module__ = "c_python_backend_utils"  # as it is called in messages that Triton words

    __slots__ = ("_array", "_name", "_shared")

    def __init__(self, name: str, array: Array, /) -> None:
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise incompatible("c_python_backend_utils.Tensor(arg0: str, arg1: numpy.ndarray)", name, array)
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if (array.dtype not in _CODES and array.dtype.kind not in "SU") or array.dtype == _BF16:
            raise TritonModelException("NumPy dtype is not supported.")
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        self._name = name
        self._array = array
        self._shared = False

    def name(self) -> str:
        """Its name."""
        return self._name

    def shape(self) -> list[int]:
        """Its dimensions, the batch axis included."""
        return list(self._array.shape)

    def triton_dtype(self) -> int:
        """Its datatype as a number, which `triton_to_numpy_type` understands."""
        return _CODES.get(self._array.dtype, _BYTES_CODE)

    def is_cpu(self) -> bool:
        """Tensors are always in the host's memory here."""
        return True

    def as_numpy(self) -> Array:
        """Its array, always the same one; BYTES are object arrays of bytes.

        Raises:
            TritonModelException: it is BF16.
        """
        if self._array.dtype == _BF16:
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use to_dlpack() and from_dlpack() instead."
            )
        return self._own()

    def to_dlpack(self) -> Any:
        """A DLPack capsule that shares its memory."""
        return self.__dlpack__()

    def __dlpack__(self, *, stream: Any = None) -> Any:
        if self._array.dtype.kind in "OSU":
            raise TritonModelException("DLPack does not have support for string tensors.")
        array = self._own()
        if array.dtype == _BF16:
            # numpy has no BF16 of its own, and so no capsule for it.
            import torch

            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).__dlpack__()
        return array.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU_DEVICE

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """A tensor of what a DLPack capsule, or an object that gives one, holds; what is on a GPU is copied from it.

        Raises:
            TritonModelException: the name is empty, or the tensor is not contiguous or of a dtype that Triton lacks.
        """
        import torch
        from torch.utils.dlpack import from_dlpack

        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        if type(tensor).__name__ != "PyCapsule" and not hasattr(tensor, "__dlpack__"):
            raise TritonModelException(
                "Provided tensor is not supported. Tensor must be a DLPack capsule or have `__dlpack__` and "
                "`__dlpack_device__` attributes"
            )
        found = from_dlpack(tensor)
        if not found.is_contiguous():
            raise TritonModelException(
                "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are "
                "supported."
            )
        found = found.detach().cpu()
        if found.dtype == torch.bfloat16:
            return _wrap(name, found.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
        return Tensor(name, found.numpy())

    def _own(self) -> Array:
        if self._shared:
            self._array = self._array.copy()
            self._shared = False
        return self._array

    @classmethod
    def _shared_with(cls, name: str, array: Array) -> Self:
        tensor = cls.__new__(cls)
        tensor._name = name
        tensor._array = array
        tensor._shared = True
        return tensor


shared_tensor = Tensor._shared_with
"""A tensor of an array that others use too."""


def _wrap(name: str, array: Array) -> Tensor:
    tensor = shared_tensor(name, array)
    tensor._shared = False
    return tensor


def as_bytes(array: Array) -> Array:
    """A BYTES array as the server wants it: objects that are all bytes. Text becomes UTF-8, the rest its str."""
    if array.dtype.kind == "S":
        return array.astype(np.object_)
    flat = array.reshape(-1).tolist()
    if array.dtype.kind == "O" and all(type(element) is bytes for element in flat):
        return array
    made = np.empty(len(flat), np.object_)
    made[:] = [element if isinstance(element, bytes) else str(element).encode() for element in flat]
    return made.reshape(array.shape)
