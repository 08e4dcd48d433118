"""Tensors from what a request carries of them: raw bytes, typed contents, or a piece of shared memory."""

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_check import TensorHead, byte_size_mismatch, named
from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.tensors import Buffer, BytesError, DataType, Tensor, decode_bytes

__all__ = ["InputPlan", "input_plan", "raw_tensor", "typed_tensor"]

_LENGTH = struct.Struct("<I")
_LARGEST = 2**63 - 1
"""Most bytes that an array may span, also one without elements, whose other dimensions count all the same."""
_FIELDS: tuple[tuple[str, str, frozenset[DataType]], ...] = (
    ("bool_contents", "BOOL", frozenset({DataType.BOOL})),
    ("int_contents", "INT32", frozenset({DataType.INT8, DataType.INT16, DataType.INT32})),
    ("int64_contents", "INT64", frozenset({DataType.INT64})),
    ("uint_contents", "UINT32", frozenset({DataType.UINT8, DataType.UINT16, DataType.UINT32})),
    ("uint64_contents", "UINT64", frozenset({DataType.UINT64})),
    ("fp32_contents", "FP32", frozenset({DataType.FP32})),
    ("fp64_contents", "FP64", frozenset({DataType.FP64})),
    ("bytes_contents", "BYTES", frozenset({DataType.BYTES})),
)
"""InferTensorContents: field, what Triton calls it, and the datatypes it may hold. None holds FP16 or BF16."""


class InputPlan(NamedTuple):
    """How an input's data becomes its array. `byte_size` is -1 for BYTES, whose elements differ."""

    name: str
    datatype: DataType
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    elements: int
    byte_size: int


def input_plan(spec: ModelSpec, head: TensorHead, got: int | None, request_id: str) -> InputPlan:
    """The plan of a checked input. `got`: bytes of its data, for the message, where they are known.

    Raises InferError for a shape that no array can have: Triton finds it by its size, of which a batch of 0 has a row.
    """
    datatype = DataType(head.datatype)
    count = math.prod(head.shape)
    is_batchless = spec.max_batch_size > 0 and head.shape[0] == 0
    if is_batchless or any(dim < 0 for dim in head.shape):
        size = datatype.itemsize or 1
        expected = size * (math.prod(head.shape[1:]) if is_batchless else count)
        raise byte_size_mismatch(spec, head.name, expected if got != expected else 0, got or 0, request_id)
    if count == 0 and math.prod(filter(None, head.shape)) * datatype.numpy.itemsize > _LARGEST:
        dims = ",".join(map(str, head.shape))
        raise invalid_argument(
            f"{named(request_id)}unexpected shape for input '{head.name}' for model '{spec.name}': the dimensions of "
            f"[{dims}] are too large"
        )
    byte_size = -1 if datatype is DataType.BYTES else count * datatype.itemsize
    return InputPlan(head.name, datatype, datatype.numpy, head.shape, count, byte_size)


def raw_tensor(spec: ModelSpec, plan: InputPlan, data: Buffer, request_id: str) -> Tensor:
    """The array over the data itself; BYTES are copied out. Raises InferError where the size is not the shape's."""
    if plan.datatype is DataType.BYTES:
        try:
            return decode_bytes(data, plan.elements).reshape(plan.shape)
        except BytesError as error:
            raise _bytes_refusal(spec, plan, bytes(data), request_id) from error
    if len(data) != plan.byte_size:
        raise byte_size_mismatch(spec, plan.name, plan.byte_size, len(data), request_id)
    return np.ndarray(plan.shape, plan.dtype, data)


def typed_tensor(spec: ModelSpec, plan: InputPlan, contents: pb.InferTensorContents, request_id: str) -> Tensor:
    """The array of typed contents, values cut to the datatype's width as Triton does. Raises InferError."""
    datatype = plan.datatype
    held = ""
    for field, kind, datatypes in _FIELDS:
        if not len(getattr(contents, field)):
            continue
        if datatype not in datatypes:
            raise invalid_argument(
                f"unexpected explicit tensor data for input tensor '{plan.name}' for model '{spec.name}' of type "
                f"'{kind}', expected datatype '{datatype.value}'"
            )
        held = field
    values = getattr(contents, held) if held else ()
    if datatype is DataType.BYTES:
        if len(values) != plan.elements:
            raise _wrong_count(spec, plan, len(values), request_id)
        elements = np.empty(plan.elements, np.object_)
        elements[:] = list(values)
        return elements.reshape(plan.shape)
    if len(values) != plan.elements:
        size = datatype.itemsize
        raise byte_size_mismatch(spec, plan.name, plan.byte_size, len(values) * size, request_id)
    if datatype in (DataType.FP32, DataType.FP64) and values:
        # Packed floats lie in the serialized message as they lie in memory: no walk over the elements.
        packed = pb.InferTensorContents(**{held: values}).SerializeToString()
        return np.frombuffer(packed, plan.dtype, plan.elements, len(packed) - plan.byte_size).reshape(plan.shape)
    wide = np.int64 if datatype.value.startswith("INT") else np.uint64
    array = np.fromiter(values, np.bool_ if datatype is DataType.BOOL else wide, plan.elements)
    return array.astype(plan.dtype, copy=False).reshape(plan.shape)


def _bytes_refusal(spec: ModelSpec, plan: InputPlan, data: bytes, request_id: str) -> InferError:
    """What Triton says of a BYTES tensor that its lengths do not fit."""
    at = found = 0
    while at < len(data):
        left = len(data) - at
        if left < _LENGTH.size:
            return invalid_argument(
                f"{named(request_id)}incomplete string length indicator for inference input '{plan.name}' for model "
                f"'{spec.name}', expecting 4 bytes but only {left} bytes available. Please make sure the string length "
                "indicator is in one buffer."
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if found == plan.elements:
            return _wrong_count(spec, plan, found + 1, request_id)
        if length > len(data) - at:
            return invalid_argument(
                f"incomplete string data for inference input '{plan.name}', expecting string of length {length} but "
                f"only {len(data) - at} bytes available"
            )
        found += 1
        at += length
    return _wrong_count(spec, plan, found, request_id)


def _wrong_count(spec: ModelSpec, plan: InputPlan, got: int, request_id: str) -> InferError:
    where = f"for inference input '{plan.name}' for model '{spec.name}'"
    if got < plan.elements:
        return invalid_argument(f"{named(request_id)}expected {plan.elements} string elements {where}, got {got}")
    more = plan.elements + 1
    return invalid_argument(
        f"{named(request_id)}unexpected number of string elements {more} {where}, expecting {plan.elements}"
    )
