"""The plain functions of `triton_python_backend_utils`: look-ups in configurations and responses, and datatypes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nextact_server.inference.tensors import Buffer, DataType, encode_bytes
from nextact_server.inference.tensors import Tensor as Array
from nextact_server.repository.backends.python.responses import InferenceResponse
from nextact_server.repository.backends.python.tensors import Tensor

__all__ = [
    "TRITON_STRING_TO_NUMPY",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "using_decoupled_model_transaction_policy",
]

Properties = Mapping[str, Any]

_WITH_NUMPY = [datatype for datatype in DataType if datatype is not DataType.BF16]
_BY_CODE: dict[int, Any] = {code: datatype.numpy.type for code, datatype in enumerate(_WITH_NUMPY, start=1)}
_CODES = {np.dtype(scalar): code for code, scalar in _BY_CODE.items()}

TRITON_STRING_TO_NUMPY: dict[str, Any] = {datatype.config_name: datatype.numpy.type for datatype in _WITH_NUMPY}
TRITON_STRING_TO_NUMPY["TYPE_BOOL"] = bool


def triton_to_numpy_type(data_type: int) -> Any:
    """The numpy type of a datatype's number; None for one that numpy lacks."""
    return _BY_CODE.get(data_type)


def numpy_to_triton_type(data_type: Any) -> int | None:
    """The number of a numpy type's datatype; None where there is none."""
    if data_type is np.bytes_:
        return _CODES[np.dtype(np.object_)]
    return _CODES.get(np.dtype(data_type))


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """The numpy type of a config's `data_type`, such as TYPE_FP32. Raises KeyError for an unknown one."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The response's output of that name, or None."""
    return next((tensor for tensor in inference_response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Properties, name: str) -> Any:
    """The properties of an input in a configuration (a dict, as `json.loads` gives it), or None."""
    return _named(model_config.get("input", ()), name)


def get_output_config_by_name(model_config: Properties, name: str) -> Any:
    """The properties of an output in a configuration, or None."""
    return _named(model_config.get("output", ()), name)


def using_decoupled_model_transaction_policy(model_config: Properties) -> bool:
    """Whether the configuration says that the model answers a request with any number of responses."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def serialize_byte_tensor(input_tensor: Array) -> Any:
    """A BYTES tensor as bytes, each element behind its length; () for an empty one, None for another datatype."""
    if input_tensor.size == 0:
        return ()
    return encode_bytes(input_tensor) if input_tensor.dtype.kind in "OS" else None


def deserialize_bytes_tensor(encoded_tensor: Buffer) -> Array:
    """The elements of a serialized BYTES tensor, object[n] of bytes."""
    data = bytes(encoded_tensor)
    elements: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise ValueError(f"element {len(elements)} of the BYTES tensor overruns its {len(data)} bytes")
        elements.append(data[at + 4 : end])
        at = end
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array


def _named(properties: Any, name: str) -> Any:
    return next((found for found in properties if found["name"] == name), None)
