"""What a response holds: the outputs asked for, as they were asked for."""

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer_fakes import client_request, infer_input, model_spec, read
from tritonclient.grpc import InferRequestedOutput, InferResult
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.tensors import DataType, Tensor
from nextact_server.rpc.kserve.classification import best_classes
from nextact_server.rpc.kserve.encode import infer_response
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.shared_memory_system import SystemMemory

FP32 = DataType.FP32
LABELS = ("cat", "dog", "fish")
CLASSIFY = model_spec("classify", outputs=(TensorSpec("OUT", FP32, (4,), labels=LABELS),))
TWO = model_spec("two", outputs=(TensorSpec("S", FP32, (4,)), TensorSpec("D", FP32, (4,))))
ONES = np.ones((1, 4), np.float32)


def asked(
    spec: ModelSpec,
    outputs: Sequence[InferRequestedOutput],
    response: InferResponse,
    regions: SharedMemory | None = None,
    **options: Any,
) -> pb.ModelInferResponse:
    message = client_request(spec.name, [infer_input(ONES, "FP32")], list(outputs) or None, **options)
    return pb.ModelInferResponse.FromString(infer_response(read(spec, message, regions), response))


def names(response: pb.ModelInferResponse) -> list[str]:
    assert len(response.raw_output_contents) == len(response.outputs)
    return [output.name for output in response.outputs]


def test_all_outputs_come_in_the_models_order_unless_some_are_asked_for() -> None:
    response = InferResponse({"S": ONES * 2, "D": ONES})
    assert names(asked(TWO, [], response)) == ["S", "D"]
    assert names(asked(TWO, [InferRequestedOutput("D")], response)) == ["D"]
    assert names(asked(TWO, [InferRequestedOutput("D"), InferRequestedOutput("S")], response)) == ["S", "D"]
    assert names(asked(TWO, [InferRequestedOutput("D"), InferRequestedOutput("D")], response)) == ["D"]


def test_outputs_that_the_config_does_not_know_are_left_out() -> None:
    assert names(asked(TWO, [], InferResponse({"S": ONES, "X": ONES}))) == ["S"]


def test_id_and_parameters_travel_with_the_response() -> None:
    given = {"i": 7, "b": True, "f": 1.5, "s": "x"}
    found = asked(TWO, [], InferResponse({"S": ONES}, given), request_id="abc")
    assert found.id == "abc"
    values = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in found.parameters.items()}
    assert values == given
    assert found.parameters["b"].WhichOneof("parameter_choice") == "bool_param"


def test_an_output_that_no_datatype_holds_is_the_models_fault() -> None:
    with pytest.raises(InferError, match="output 'S': no datatype of the protocol holds complex64"):
        asked(TWO, [], InferResponse({"S": ONES.astype(np.complex64)}))


# Classification -------------------------------------------------------------------------------------------------------


def classified(values: Sequence[Sequence[float]], wanted: int, spec: ModelSpec = CLASSIFY) -> list[Any]:
    output = InferResponse({"OUT": np.array(values, np.float32)})
    found = asked(spec, [InferRequestedOutput("OUT", class_count=wanted)], output)
    assert found.outputs[0].datatype == "BYTES"
    return InferResult(found).as_numpy("OUT").tolist()


def test_classes_are_value_index_and_label_best_first() -> None:
    row = [0.1, 0.7, 0.2, 0.5]
    assert classified([row], 3) == [[b"0.700000:1:dog", b"0.500000:3", b"0.200000:2:fish"]]
    assert len(classified([row], 9)[0]) == 4
    assert classified([row, [9, 8, 0, 0]], 2) == [
        [b"0.700000:1:dog", b"0.500000:3"],
        [b"9.000000:0:cat", b"8.000000:1:dog"],
    ]


def test_classes_that_are_equal_keep_their_order() -> None:
    assert classified([[1, 1, 1, 1]], 4) == [[b"1.000000:0:cat", b"1.000000:1:dog", b"1.000000:2:fish", b"1.000000:3"]]


def test_values_are_written_with_six_decimals() -> None:
    assert classified([[1e-7, 1234567.891, 1e20, -0.5]], 4) == [
        [b"100000002004087734272.000000:2:fish", b"1234567.875000:1:dog", b"0.000000:0:cat", b"-0.500000:3"]
    ]


def test_what_is_no_number_comes_last() -> None:
    assert [each.split(b":")[1] for each in classified([[1, float("nan"), 3, 2]], 4)[0]] == [b"2", b"3", b"0", b"1"]


def test_integers_are_written_as_such() -> None:
    assert best_classes(np.array([[2, 3]], np.int32), 2, (), batched=True).tolist() == [[b"3:1", b"2:0"]]


def test_all_axes_behind_the_batch_are_classes() -> None:
    values = np.array([[[0.1, 0.7], [0.2, 0.5]]], np.float32)
    assert best_classes(values, 2, (), batched=True).tolist() == [[b"0.700000:1", b"0.500000:3"]]
    assert best_classes(values[0], 1, (), batched=False).tolist() == [b"0.700000:1"]
    assert best_classes(np.zeros((2, 0), np.float32), 1, (), batched=True).shape == (2, 0)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30))
def test_integers_of_any_size_are_ordered(values: list[int]) -> None:
    found = best_classes(np.array(values, np.int64), len(values), (), batched=False)
    expected = sorted(range(len(values)), key=lambda index: -values[index])
    assert [int(each.split(b":")[1]) for each in found.tolist()] == expected


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.zeros((1, 2), np.bool_), "BOOL"),
        (np.zeros((1, 2), np.float16), "FP16"),
        (np.array([[b"a"]], np.object_), "BYTES"),
    ],
)
def test_what_has_no_order_has_no_classes(values: Tensor, kind: str) -> None:
    with pytest.raises(InferError, match=f"class result not available for output due to unsupported type '{kind}'"):
        best_classes(values, 1, (), batched=True)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int64_param", 0, "invalid value for 'classification' parameter, expected >= 0"),
        ("int64_param", -1, "invalid value for 'classification' parameter, expected >= 0"),
        ("string_param", "2", "invalid value type for 'classification' parameter, expected int64_param"),
        ("uint64_param", 2, "invalid value type for 'classification' parameter, expected int64_param"),
    ],
)
def test_how_many_classes_is_a_number_above_nothing(kind: str, value: Any, expected: str) -> None:
    message = client_request("classify", [infer_input(ONES, "FP32")], [InferRequestedOutput("OUT")])
    setattr(message.outputs[0].parameters["classification"], kind, value)
    with pytest.raises(InferError) as refused:
        read(CLASSIFY, message)
    assert refused.value.message == expected


# Shared memory --------------------------------------------------------------------------------------------------------


class Region:
    """A region 'out' of 64 bytes."""

    def __init__(self) -> None:
        key = f"nextact_{uuid.uuid4().hex}"
        self.path = Path("/dev/shm") / key
        self.path.write_bytes(bytes(64))
        self.regions = SharedMemory()
        self.regions.add("out", SystemMemory("out", key, 0, 64))


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    made.path.unlink()


def into_memory(size: int, offset: int = 0, region: str = "out") -> InferRequestedOutput:
    output = InferRequestedOutput("S")
    output.set_shared_memory(region, size, offset)
    return output


def test_an_output_in_shared_memory_leaves_its_place_in_the_message_empty(region: Region) -> None:
    response = InferResponse({"S": ONES * 2, "D": ONES})
    found = asked(TWO, [into_memory(16, 16), InferRequestedOutput("D")], response, region.regions)
    assert [len(each) for each in found.raw_output_contents] == [0, 16]
    assert (found.outputs[0].datatype, list(found.outputs[0].shape)) == ("FP32", [1, 4])
    assert region.path.read_bytes()[16:32] == (ONES * 2).tobytes()


def test_bytes_and_arrays_of_any_layout_go_to_shared_memory(region: Region) -> None:
    asked(TWO, [into_memory(64)], InferResponse({"S": np.array([[b"ab", b"c"]], np.object_)}), region.regions)
    assert region.path.read_bytes()[:11] == b"\x02\0\0\0ab\x01\0\0\0c"
    turned = np.arange(4, dtype=np.float32).reshape(2, 2).T
    asked(TWO, [into_memory(16)], InferResponse({"S": turned}), region.regions)
    assert region.path.read_bytes()[:16] == turned.tobytes()


def test_an_output_larger_than_its_place_is_an_error(region: Region) -> None:
    with pytest.raises(InferError) as refused:
        asked(TWO, [into_memory(8)], InferResponse({"S": ONES}), region.regions)
    assert refused.value.message == (
        "shared memory size specified with the request for output 'S' (8 bytes) should be at least 16 bytes to hold "
        "the results"
    )
    assert region.path.read_bytes() == bytes(64)


def test_a_region_that_is_not_there_is_told_before_anything_is_computed(region: Region) -> None:
    for output, text in (
        (into_memory(16, region="nosuch"), "Unable to find shared memory region: 'nosuch'"),
        (into_memory(16, 56), "Invalid offset + byte size for shared memory region: 'out'"),
    ):
        message = client_request("two", [infer_input(ONES, "FP32")], [output])
        with pytest.raises(InferError) as refused:
            read(TWO, message, region.regions)
        assert refused.value.message == text


def test_classes_and_shared_memory_exclude_each_other(region: Region) -> None:
    message = client_request("two", [infer_input(ONES, "FP32")], [into_memory(16)])
    message.outputs[0].parameters["classification"].int64_param = 1
    with pytest.raises(InferError) as refused:
        read(TWO, message, region.regions)
    assert refused.value.message == "output can't set both 'shared_memory_region' and 'classification'"
