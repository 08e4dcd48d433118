"""From a response to a ModelInferResponse's bytes: tensors are written straight to the wire, one copy each.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from functools import lru_cache

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import internal
from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.tensors import Buffer, DataType, Tensor, datatype_of, encode_bytes
from nextact_server.rpc.kserve.classification import best_classes
from nextact_server.rpc.kserve.parameters import parameter_fields
from nextact_server.rpc.kserve.request import RpcRequest
from nextact_server.rpc.kserve.wire import length_prefix

__all__ = ["error_message", "final_only", "infer_response", "response_parts", "stream_response"]

MODEL_NAME, MODEL_VERSION, OUTPUTS, RAW_OUTPUTS = 0x0A, 0x12, 0x2A, 0x32
ERROR_MESSAGE, INFER_RESPONSE = 0x0A, 0x12
"""Tags of the length-delimited fields of ModelInferResponse, and of ModelStreamInferResponse."""
FINAL = "triton_final_response"
VARIABLE_KINDS = "OSU"
"""numpy's kinds of BYTES arrays: objects, and its own bytes and strings."""
REMEMBERED = 1024

Part = Buffer | Tensor
"""A piece of a message. Arrays among them are contiguous, and are joined as the buffers that they are."""

_FINAL_FIELDS = {flag: parameter_fields({FINAL: flag}) for flag in (False, True)}


def infer_response(request: RpcRequest, response: InferResponse) -> bytes:
    """A whole ModelInferResponse. Raises InferError for an output that cannot be given as it was asked for."""
    return b"".join(response_parts(request, response))  # type: ignore[arg-type]


def response_parts(request: RpcRequest, response: InferResponse) -> list[Part]:
    """A ModelInferResponse in pieces: the outputs that were asked for, in the model's order."""
    plan = request.plan
    spec = plan.spec
    parts: list[Part] = [_model_fields(spec.name, spec.version)]
    if request.id_field:
        parts.append(request.id_field)  # has the same number in both messages
    if response.parameters:
        parts.append(parameter_fields(response.parameters))
    names, wishes = plan.names, plan.wishes
    for name, tensor in response.outputs.items():
        if name not in names:
            continue
        if name in wishes:
            parts.extend(_wished(request, name, tensor))
        elif tensor.dtype.kind in VARIABLE_KINDS:
            parts.extend(_bytes_output(name, tensor))
        else:
            parts.append(_fixed_head(name, tensor.dtype, tensor.shape))
            parts.append(tensor if tensor.flags.c_contiguous else np.ascontiguousarray(tensor))
    return parts


def stream_response(request: RpcRequest, response: InferResponse, *, final: bool) -> bytes:
    """A ModelStreamInferResponse around a response."""
    parts = [*response_parts(request, response), _FINAL_FIELDS[final]]
    size = sum(part.nbytes if isinstance(part, np.ndarray) else len(part) for part in parts)
    return b"".join((length_prefix(INFER_RESPONSE, size), *parts))  # type: ignore[arg-type]


def final_only(request: RpcRequest) -> bytes:
    """A ModelStreamInferResponse that says only that there are no more, as Triton does: without a version."""
    return _wrapped(_model_fields(request.plan.spec.name, None) + request.id_field + _FINAL_FIELDS[True])


def error_message(text: str, id_field: bytes, model: str | None = None, *, final: bool = True) -> bytes:
    """A ModelStreamInferResponse with an error; `model` None: the request never came as far as a model."""
    inner = id_field if model is None else _model_fields(model, None) + id_field + _FINAL_FIELDS[final]
    encoded = text.encode(errors="replace")
    return length_prefix(ERROR_MESSAGE, len(encoded)) + encoded + _wrapped(inner)


def _wished(request: RpcRequest, name: str, tensor: Tensor) -> list[Part]:
    """An output as its best classes, or one that goes to shared memory and leaves its place in the message empty."""
    spec = request.plan.spec
    wish = request.plan.wishes[name]
    if wish.classes:
        labels = next(output.labels for output in spec.outputs if output.name == name)
        batched = spec.max_batch_size > 0 and tensor.ndim > 0
        return _bytes_output(name, best_classes(tensor, wish.classes, labels, batched=batched))
    datatype = _datatype(name, tensor)
    data = _data(tensor)
    size = len(data)
    assert request.windows is not None
    window = request.windows[name]
    if size > window.byte_size:
        raise internal(
            f"shared memory size specified with the request for output '{name}' ({window.byte_size} bytes) should be "
            f"at least {size} bytes to hold the results"
        )
    window.write([data])
    return [_output_field(name, datatype.value, tensor.shape), length_prefix(RAW_OUTPUTS, 0)]


def _data(tensor: Tensor) -> Buffer:
    """A tensor's bytes, row major."""
    if tensor.dtype.kind in VARIABLE_KINDS:
        return encode_bytes(tensor)
    flat: memoryview = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
    return flat


def _bytes_output(name: str, tensor: Tensor) -> list[Part]:
    data = encode_bytes(tensor)
    return [_output_field(name, DataType.BYTES.value, tensor.shape), length_prefix(RAW_OUTPUTS, len(data)), data]


@lru_cache(maxsize=REMEMBERED)
def _fixed_head(name: str, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]) -> bytes:
    """All that stands before the data of an output whose elements have one size."""
    datatype = _datatype(name, np.empty(0, dtype))
    size = int(np.prod(shape, dtype=np.int64)) * datatype.itemsize
    return _output_field(name, datatype.value, shape) + length_prefix(RAW_OUTPUTS, size)


def _datatype(name: str, tensor: Tensor) -> DataType:
    try:
        return datatype_of(tensor)
    except ValueError as error:
        raise internal(f"output '{name}': {error}") from error


def _output_field(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    tensor = pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
    serialized = bytes(tensor.SerializeToString())
    return length_prefix(OUTPUTS, len(serialized)) + serialized


@lru_cache(maxsize=REMEMBERED)
def _model_fields(name: str, version: int | None) -> bytes:
    return bytes(
        pb.ModelInferResponse(
            model_name=name, model_version="" if version is None else str(version)
        ).SerializeToString()
    )


def _wrapped(response: bytes) -> bytes:
    return length_prefix(INFER_RESPONSE, len(response)) + response
