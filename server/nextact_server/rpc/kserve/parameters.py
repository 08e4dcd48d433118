"""Request and tensor parameters: those that Triton gives a meaning, and those that it hands to the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument
from nextact_server.inference.infer_request import Parameter

__all__ = ["NO_REQUEST_PARAMETERS", "RequestParameters", "SharedPart", "parameter_fields", "request_parameters"]
__all__ += ["classes_wanted", "shared_part"]

EMPTY_FINAL = "triton_enable_empty_final_response"
RESERVED = "triton_"
MAX_CORRELATION_CHARACTERS = 128
_UINT64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class RequestParameters:
    """A request's parameters: how it is to be scheduled, and `others`, which the model sees."""

    priority: int = 0
    timeout_us: int = 0
    correlation_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    empty_final: bool = False
    others: Mapping[str, Parameter] = field(default_factory=dict)


NO_REQUEST_PARAMETERS = RequestParameters()


@dataclass(frozen=True, slots=True)
class SharedPart:
    """Where a tensor lies, or is to lie, in shared memory."""

    region: str
    offset: int
    byte_size: int


def request_parameters(given: Mapping[str, Any]) -> RequestParameters:
    """The parameters of a request. Raises InferError for a wrong type or value, or a reserved name."""
    if not given:
        return NO_REQUEST_PARAMETERS
    fields: dict[str, Any] = {}
    others: dict[str, Parameter] = {}
    for name, value in given.items():
        if name == "sequence_id":
            fields["correlation_id"] = _correlation_id(value)
        elif name in ("sequence_start", "sequence_end"):
            fields[name] = _typed(name, value, "bool_param")
        elif name == "priority":
            fields[name] = _priority(value)
        elif name == "timeout":
            # Less than nothing is read as a very long time, which shortens nothing.
            fields["timeout_us"] = max(0, _typed(name, value, "int64_param"))
        elif name == EMPTY_FINAL:
            fields["empty_final"] = _typed(name, value, "bool_param")
        elif name.startswith(RESERVED):
            raise invalid_argument(
                f"parameter keys starting with '{RESERVED}' are reserved for Triton usage. Only the following keys "
                f"starting with '{RESERVED}' are allowed: {EMPTY_FINAL}"
            )
        else:
            kind = value.WhichOneof("parameter_choice")
            if kind in (None, "uint64_param"):
                raise _wrong_type(name, "int64_param, bool_param, or string_param")
            others[name] = getattr(value, kind)
    return RequestParameters(**fields, others=others)


def shared_part(tensor: str, given: Mapping[str, Any]) -> SharedPart | None:
    """Where a tensor lies in shared memory; None: not there. Raises InferError for what is wrong or missing."""
    if not given:
        return None
    offset = byte_size = None
    region = None
    if "shared_memory_region" in given:
        region = _tensor_typed("shared_memory_region", tensor, given, "string_param")
    for name in ("shared_memory_offset", "shared_memory_byte_size"):
        if name not in given:
            continue
        if region is None:
            raise invalid_argument(
                f"'{name}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'"
            )
        value = _tensor_typed(name, tensor, given, "int64_param")
        if name == "shared_memory_offset":
            offset = value
        else:
            byte_size = value
    if region is None:
        return None
    if byte_size is None:
        raise invalid_argument(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor "
            f"'{tensor}'"
        )
    return SharedPart(region, offset or 0, byte_size)


def classes_wanted(given: Mapping[str, Any]) -> int:
    """How many classes an output is asked for; 0: the tensor itself. Raises InferError."""
    if "classification" not in given:
        return 0
    value = given["classification"]
    if value.WhichOneof("parameter_choice") != "int64_param":
        raise invalid_argument("invalid value type for 'classification' parameter, expected int64_param")
    if value.int64_param <= 0:
        raise invalid_argument("invalid value for 'classification' parameter, expected >= 0")
    if "shared_memory_region" in given:
        raise invalid_argument("output can't set both 'shared_memory_region' and 'classification'")
    return int(value.int64_param)


def parameter_fields(parameters: Mapping[str, Parameter]) -> bytes:
    """Response parameters as the serialized field of a ModelInferResponse."""
    message = pb.ModelInferResponse()
    for name, value in parameters.items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        elif isinstance(value, str):
            message.parameters[name].string_param = value
        else:
            message.parameters[name].double_param = value
    return bytes(message.SerializeToString())


def _correlation_id(value: Any) -> int | str:
    kind = value.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return int(value.int64_param) & _UINT64
    if kind != "string_param":
        raise _wrong_type("sequence_id", "int64_param or string_param")
    if len(value.string_param) > MAX_CORRELATION_CHARACTERS:
        raise InferError(
            ErrorCode.UNSUPPORTED,
            f"string correlation ID cannot be longer than {MAX_CORRELATION_CHARACTERS} characters",
        )
    return str(value.string_param)


def _priority(value: Any) -> int:
    kind = value.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise _wrong_type("priority", "int64_param or uint64_param")
    priority = int(getattr(value, kind))
    if priority < 0:
        raise invalid_argument("invalid value for 'priority', expected value >= 0.")
    return priority


def _typed(name: str, value: Any, kind: str) -> Any:
    if value.WhichOneof("parameter_choice") != kind:
        raise _wrong_type(name, kind)
    return getattr(value, kind)


def _tensor_typed(name: str, tensor: str, given: Mapping[str, Any], kind: str) -> Any:
    if given[name].WhichOneof("parameter_choice") != kind:
        raise invalid_argument(f"invalid value type for '{name}' parameter for tensor '{tensor}', expected {kind}.")
    return getattr(given[name], kind)


def _wrong_type(name: str, kinds: str) -> InferError:
    return invalid_argument(f"invalid value type for '{name}' parameter, expected {kinds}.")
