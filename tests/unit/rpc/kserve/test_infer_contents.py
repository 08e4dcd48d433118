"""Contents that do not fit what they are said to be, word by word as Triton 2.51 tells them."""

import struct
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from infer_fakes import model_spec, raw_request, read
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.tensors import DataType
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.shared_memory_system import SystemMemory

UNKNOWN = "[request id: <id_unknown>] "
IDENT4 = model_spec()
VARIABLE = model_spec("identity", dims=(-1,), max_batch_size=32)
STRINGS = model_spec("id_bytes", "BYTES", (-1,))
FP32 = DataType.FP32
TWO = model_spec(
    "two_req", inputs=(TensorSpec("A", FP32, (2,)), TensorSpec("B", FP32, (2,))), outputs=(TensorSpec("S", FP32, (2,)),)
)


def refusal(
    spec: ModelSpec, message: pb.ModelInferRequest, regions: SharedMemory | None = None
) -> tuple[ErrorCode, str]:
    with pytest.raises(InferError) as refused:
        read(spec, message, regions)
    return refused.value.code, refused.value.message


def told(spec: ModelSpec, message: pb.ModelInferRequest) -> str:
    code, text = refusal(spec, message)
    assert code is ErrorCode.INVALID_ARG
    return text


def typed(datatype: str, shape: Sequence[int], raw: Sequence[bytes] = (), model: str = "ident4", **fields: Any) -> Any:
    message = raw_request(model, [("IN", datatype, shape)], raw)
    contents = message.inputs[0].contents
    contents.SetInParent()
    for field, values in fields.items():
        getattr(contents, field).extend(values)
    return message


@pytest.mark.parametrize("size", [0, 12, 15, 32])
def test_raw_bytes_must_have_the_size_of_the_shape(size: int) -> None:
    expected = f"{UNKNOWN}input byte size mismatch for input 'IN' for model 'ident4'. Expected 16, got {size}"
    assert told(IDENT4, raw_request(raw=[bytes(size)])) == expected


def test_typed_contents_must_have_as_many_elements_as_the_shape() -> None:
    for values, size in (([1, 2, 3], 12), ([1, 2, 3, 4, 5], 20), ([], 0)):
        found = told(IDENT4, typed("FP32", (1, 4), fp32_contents=values))
        assert found == f"{UNKNOWN}input byte size mismatch for input 'IN' for model 'ident4'. Expected 16, got {size}"


@pytest.mark.parametrize(
    ("shape", "expected", "got"),
    [((0, 4), 16, 0), ((1, -2), -8, 16), ((1, 2**62, 4), 0, 16)],
    ids=["no rows", "negative", "too large for any memory"],
)
def test_shapes_that_no_array_has_are_told_by_their_size(shape: Sequence[int], expected: int, got: int) -> None:
    spec = VARIABLE if len(shape) == 2 else model_spec("identity", dims=(-1, 4))
    found = told(spec, raw_request("identity", [("IN", "FP32", shape)], [bytes(got)]))
    assert found.startswith(f"{UNKNOWN}input byte size mismatch for input 'IN' for model 'identity'. Expected ")
    if len(shape) == 2:
        assert found.endswith(f"Expected {expected}, got {got}")


def test_a_dimension_of_nothing_is_a_tensor_without_data() -> None:
    assert read(VARIABLE, raw_request("identity", [("IN", "FP32", (1, 0))], [b""])).inputs["IN"].shape == (1, 0)
    found = told(VARIABLE, raw_request("identity", [("IN", "FP32", (1, 0))], []))
    assert found == "unable to find data for input tensor 'IN' for model 'identity' in request."


def test_the_same_head_is_checked_anew_where_its_data_differs() -> None:
    """Heads are remembered; what was found of one request's data must not be."""
    assert (
        told(IDENT4, raw_request(raw=[])) == "unable to find data for input tensor 'IN' for model 'ident4' in request."
    )
    assert read(IDENT4, raw_request()).batch_size == 1


def test_raw_and_typed_contents_do_not_mix() -> None:
    found = told(IDENT4, typed("FP32", (1, 4), [bytes(16)], fp32_contents=[1, 2, 3, 4]))
    assert found == "contents field must not be specified when using raw_input_contents for 'IN' for model 'ident4'"
    message = raw_request("two_req", [("A", "FP32", (1, 2)), ("B", "FP32", (1, 2))], [bytes(8)])
    message.inputs[0].contents.fp32_contents.extend([1, 2])
    found = told(TWO, message)
    assert found == "contents field must not be specified when using raw_input_contents for 'A' for model 'two_req'"


def test_each_input_needs_data_and_more_than_that_is_passed_over() -> None:
    message = raw_request("two_req", [("A", "FP32", (1, 2)), ("B", "FP32", (1, 2))], [bytes(8)])
    assert told(TWO, message) == "unable to find data for input tensor 'B' for model 'two_req' in request."
    assert read(IDENT4, raw_request(raw=[bytes(16), b"more"])).inputs["IN"].shape == (1, 4)


@pytest.mark.parametrize(
    ("datatype", "field", "kind"),
    [
        ("FP32", "int_contents", "INT32"),
        ("FP16", "fp32_contents", "FP32"),
        ("BF16", "fp32_contents", "FP32"),
        ("UINT8", "int_contents", "INT32"),
        ("INT64", "int_contents", "INT32"),
        ("FP64", "fp32_contents", "FP32"),
        ("INT8", "bool_contents", "BOOL"),
    ],
)
def test_typed_contents_must_be_in_the_datatypes_own_field(datatype: str, field: str, kind: str) -> None:
    found = told(model_spec("ident4", datatype), typed(datatype, (1, 4), **{field: [1, 1, 1, 1]}))
    assert found == (
        f"unexpected explicit tensor data for input tensor 'IN' for model 'ident4' of type '{kind}', expected datatype "
        f"'{datatype}'"
    )


def test_typed_contents_in_two_fields_are_told_by_the_wrong_one() -> None:
    found = told(IDENT4, typed("FP32", (1, 4), fp32_contents=[1, 2, 3, 4], int_contents=[1]))
    assert "of type 'INT32', expected datatype 'FP32'" in found


def element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("count", "raw", "expected"),
    [
        (
            1,
            struct.pack("<I", 100) + b"ab",
            (
                "incomplete string data for inference input 'IN', expecting string of length 100 but only 2 bytes "
                "available"
            ),
        ),
        (
            1,
            b"\xff\xff\xff\xff",
            (
                "incomplete string data for inference input 'IN', expecting string of length 4294967295 but only 0 "
                "bytes "
                "available"
            ),
        ),
        (
            1,
            b"ab",
            (
                f"{UNKNOWN}incomplete string length indicator for inference input 'IN' for model 'id_bytes', "
                "expecting 4 "
                "bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer."
            ),
        ),
        (
            1,
            element(b"x") + b"!",
            (
                f"{UNKNOWN}incomplete string length indicator for inference input 'IN' for model 'id_bytes', "
                "expecting 4 "
                "bytes but only 1 bytes available. Please make sure the string length indicator is in one buffer."
            ),
        ),
        (
            2,
            element(b"x"),
            f"{UNKNOWN}expected 2 string elements for inference input 'IN' for model 'id_bytes', got 1",
        ),
        (1, b"", f"{UNKNOWN}expected 1 string elements for inference input 'IN' for model 'id_bytes', got 0"),
        (
            1,
            element(b"x") + element(b"y"),
            (
                f"{UNKNOWN}unexpected number of string elements 2 for inference input 'IN' for model 'id_bytes', "
                "expecting "
                "1"
            ),
        ),
    ],
    ids=["overrun", "huge", "cut length", "trailing", "fewer", "none", "more"],
)
def test_bytes_must_be_as_many_and_as_long_as_they_say(count: int, raw: bytes, expected: str) -> None:
    assert told(STRINGS, raw_request("id_bytes", [("IN", "BYTES", (1, count))], [raw])) == expected


def test_typed_bytes_must_be_as_many_as_the_shape_says() -> None:
    found = told(STRINGS, typed("BYTES", (1, 2), model="id_bytes", bytes_contents=[b"a"]))
    assert found == f"{UNKNOWN}expected 2 string elements for inference input 'IN' for model 'id_bytes', got 1"
    found = told(STRINGS, typed("BYTES", (1, 1), model="id_bytes", bytes_contents=[b"a", b"b"]))
    assert found.endswith(
        "unexpected number of string elements 2 for inference input 'IN' for model 'id_bytes', expecting 1"
    )


# Shared memory --------------------------------------------------------------------------------------------------------


@pytest.fixture
def regions() -> Iterator[SharedMemory]:
    """A region 'in' of 64 bytes that begins with 0, 1, 2, ... as float32."""
    key = f"nextact_{uuid.uuid4().hex}"
    path = Path("/dev/shm") / key
    path.write_bytes(np.arange(16, dtype=np.float32).tobytes())
    memory = SharedMemory()
    memory.add("in", SystemMemory("in", key, 0, 64))
    yield memory
    path.unlink()


def shared(model: str = "ident4", datatype: str = "FP32", shape: Sequence[int] = (1, 4), **parts: Any) -> Any:
    message = raw_request(model, [("IN", datatype, shape)], [])
    for name, value in parts.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(message.inputs[0].parameters[f"shared_memory_{name}"], kind, value)
    return message


def test_inputs_are_read_from_shared_memory(regions: SharedMemory) -> None:
    found = read(IDENT4, shared(region="in", byte_size=16, offset=16), regions).inputs["IN"]
    assert found.tolist() == [[4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("parts", "code", "expected"),
    [
        ({"region": "nosuch", "byte_size": 16}, "NOT_FOUND", "Unable to find shared memory region: 'nosuch'"),
        (
            {"region": "in", "byte_size": 8},
            "INVALID_ARGUMENT",
            f"{UNKNOWN}input byte size mismatch for input 'IN' for model 'ident4'. Expected 16, got 8",
        ),
        (
            {"region": "in", "byte_size": 128},
            "INVALID_ARGUMENT",
            "Invalid offset + byte size for shared memory region: 'in'",
        ),
        (
            {"region": "in", "byte_size": 16, "offset": -1},
            "INVALID_ARGUMENT",
            "Invalid offset for shared memory region: 'in'",
        ),
        (
            {"region": "in"},
            "INVALID_ARGUMENT",
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'IN'",
        ),
        (
            {"region": 3, "byte_size": 16},
            "INVALID_ARGUMENT",
            "invalid value type for 'shared_memory_region' parameter for tensor 'IN', expected string_param.",
        ),
        (
            {"region": "in", "byte_size": "16"},
            "INVALID_ARGUMENT",
            "invalid value type for 'shared_memory_byte_size' parameter for tensor 'IN', expected int64_param.",
        ),
        (
            {"byte_size": 16},
            "INVALID_ARGUMENT",
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 'IN'",
        ),
    ],
)
def test_what_is_wrong_with_shared_memory_is_told(
    parts: dict[str, Any], code: str, expected: str, regions: SharedMemory
) -> None:
    found, text = refusal(IDENT4, shared(**parts), regions)
    assert (found.value, text) == (code, expected)


def test_shared_memory_and_typed_contents_do_not_mix(regions: SharedMemory) -> None:
    message = shared(region="in", byte_size=16)
    message.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    _, text = refusal(IDENT4, message, regions)
    assert text == "unexpected 'content' provided when using shared memory for input tensor 'IN' for model 'ident4'"


def test_raw_contents_belong_to_the_inputs_that_are_not_shared(regions: SharedMemory) -> None:
    message = raw_request("two_req", [("A", "FP32", (1, 2)), ("B", "FP32", (1, 2))], [struct.pack("<2f", 8, 9)])
    message.inputs[0].parameters["shared_memory_region"].string_param = "in"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 8
    found = read(TWO, message, regions).inputs
    assert (found["A"].tolist(), found["B"].tolist()) == ([[0, 1]], [[8, 9]])
