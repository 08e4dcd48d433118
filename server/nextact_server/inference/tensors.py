"""Triton's datatypes and the numpy arrays that hold them.

A tensor is a numpy array of its full shape, the batch axis included. BYTES tensors are object arrays of `bytes`; BF16
is `ml_dtypes.bfloat16`. The names are those of the KServe v2 protocol; config.pbtxt says TYPE_STRING for BYTES
(https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md#datatypes).
"""

import struct
from enum import StrEnum
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffer", "BytesError", "DataType", "Tensor", "datatype_of", "decode_bytes", "encode_bytes"]

Tensor = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<I")


class DataType(StrEnum):
    """A datatype by its name in the protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"
    BF16 = "BF16"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of its arrays: object for BYTES."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 0 for BYTES, whose elements differ."""
        return 0 if self is DataType.BYTES else int(_NUMPY[self].itemsize)

    @property
    def config_name(self) -> str:
        """Its name in config.pbtxt."""
        return "TYPE_STRING" if self is DataType.BYTES else f"TYPE_{self.value}"

    @classmethod
    def from_config(cls, name: str) -> "DataType":
        """The datatype of a config's `data_type` such as TYPE_FP32. Raises ValueError for TYPE_INVALID."""
        return cls.BYTES if name == "TYPE_STRING" else cls(name.removeprefix("TYPE_"))


_NUMPY: dict[DataType, np.dtype[Any]] = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.UINT8: np.dtype(np.uint8),
    DataType.UINT16: np.dtype(np.uint16),
    DataType.UINT32: np.dtype(np.uint32),
    DataType.UINT64: np.dtype(np.uint64),
    DataType.INT8: np.dtype(np.int8),
    DataType.INT16: np.dtype(np.int16),
    DataType.INT32: np.dtype(np.int32),
    DataType.INT64: np.dtype(np.int64),
    DataType.FP16: np.dtype(np.float16),
    DataType.FP32: np.dtype(np.float32),
    DataType.FP64: np.dtype(np.float64),
    DataType.BYTES: np.dtype(np.object_),
    DataType.BF16: np.dtype(ml_dtypes.bfloat16),
}
_OF_NUMPY = {dtype: datatype for datatype, dtype in _NUMPY.items()}


def datatype_of(array: Tensor) -> DataType:
    """The datatype of an array; numpy's own strings and bytes count as BYTES. Raises ValueError for any other dtype."""
    found = _OF_NUMPY.get(array.dtype)
    if found is None:
        if array.dtype.kind in "SU":
            return DataType.BYTES
        raise ValueError(f"no datatype of the protocol holds {array.dtype}")
    return found


class BytesError(ValueError):
    """A serialized BYTES tensor that its length prefixes do not fit; `found` elements were whole."""

    def __init__(self, reason: str, found: int) -> None:
        super().__init__(reason)
        self.found = found


def encode_bytes(array: Tensor) -> bytes:
    """A BYTES tensor as the protocol carries it: each element behind its length, uint32 little endian, row major.

    Elements that are `str` are written as UTF-8; anything else that is not bytes as its `str`, like tritonclient does.
    """
    parts: list[bytes] = []
    pack = _LENGTH.pack
    for element in array.reshape(-1).tolist():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts.append(pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def decode_bytes(data: Buffer, count: int) -> Tensor:
    """The `count` elements of a serialized BYTES tensor, object[count] of bytes.

    Raises:
        BytesError: there are fewer or more elements, or a length overruns the data.
    """
    elements: list[bytes] = []
    whole = bytes(data)
    at, end = 0, len(whole)
    unpack = _LENGTH.unpack_from
    while at < end and len(elements) < count:
        if at + 4 > end:
            raise BytesError(f"ends within the length of element {len(elements)}", len(elements))
        (length,) = unpack(whole, at)
        at += 4
        if at + length > end:
            raise BytesError(f"element {len(elements)} has {length} bytes, and only {end - at} are left", len(elements))
        elements.append(whole[at : at + length])
        at += length
    if len(elements) < count or at < end:
        more = "more" if at < end else "fewer"
        raise BytesError(f"holds {more} than the {count} elements of its shape", len(elements))
    array = np.empty(count, np.object_)
    array[:] = elements
    return array
