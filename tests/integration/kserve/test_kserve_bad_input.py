"""Tensors, names and parameters that nobody should send: each refused as the caller's mistake, and told why."""

from typing import Any

import pytest
from support.kserve_calls import infer_request, outcome, refusal
from support.serving import PATIENCE
from tritonclient.grpc import service_pb2 as pb

pytestmark = pytest.mark.usefixtures("next_request_works")
MAX = 2**63 - 1
BIG = 2**62


SHAPES = [[MAX, MAX], [BIG, 4], [2**32, 2**32], [0, MAX], [MAX, 0], [-1, 4], [-2, 4], [-2, -2], [-MAX - 1, 1], [MAX, 1]]
SHAPES += [[], [4], [1, 2, 2]]


@pytest.mark.parametrize(("model", "datatype"), [("wild_numbers", "FP32"), ("wild_words", "BYTES")])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dimensions_that_no_tensor_has_are_refused(wild: Any, model: str, datatype: str, shape: list[int]) -> None:
    for raw in (b"", bytes(16)):
        code, text = refusal(wild, infer_request(model, datatype=datatype, shape=shape, raw=raw))
        assert code == "INVALID_ARGUMENT"
        assert model in text
    typed = infer_request(model, datatype=datatype, shape=shape)
    typed.ClearField("raw_input_contents")
    typed.inputs[0].contents.SetInParent()
    assert refusal(wild, typed)[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("shape", [[0, 1], [-1, 1], [-7, 1], [MAX, 0], [0, MAX], [BIG, 8], [MAX, 1]], ids=str)
def test_batches_that_no_tensor_has_are_refused(wild: Any, shape: list[int]) -> None:
    assert refusal(wild, infer_request("wild_rows", shape=shape, raw=b""))[0] == "INVALID_ARGUMENT"


def test_a_tensor_without_elements_is_none_of_these(wild: Any) -> None:
    for model, datatype in (("wild_numbers", "FP32"), ("wild_words", "BYTES")):
        answer = wild.ModelInfer(infer_request(model, datatype=datatype, shape=[3, 0], raw=b""), timeout=PATIENCE)
        assert list(answer.outputs[0].shape) == [3, 0]


WORD = b"\x03\0\0\0abc"
BROKEN_WORDS = {
    "nothing": b"",
    "half a length": b"\x03\0",
    "half a word": b"\x03\0\0\0ab",
    "a length that overruns": b"\xff\xff\xff\xffabc",
    "one too few": WORD,
    "one too many": WORD * 3,
    "a rest": WORD * 2 + b"\0",
}


@pytest.mark.parametrize("kind", BROKEN_WORDS)
def test_bytes_that_their_lengths_do_not_fit_are_refused(wild: Any, kind: str) -> None:
    request = infer_request("wild_words", datatype="BYTES", shape=[1, 2], raw=BROKEN_WORDS[kind])
    code, text = refusal(wild, request)
    assert code == "INVALID_ARGUMENT"
    assert "IN" in text


@pytest.mark.parametrize("size", [0, 1, 255, 257, 512])
def test_data_of_the_wrong_size_is_refused(wild: Any, size: int) -> None:
    code, text = refusal(wild, infer_request(raw=bytes(size)))
    assert (code, f"Expected 256, got {size}" in text) == ("INVALID_ARGUMENT", True)


@pytest.mark.parametrize("datatype", ["", "FP64", "BYTES", "fp32", "FP32\0", "INT3", "é" * 200])
def test_a_wrong_datatype_is_refused(wild: Any, datatype: str) -> None:
    assert refusal(wild, infer_request(datatype=datatype))[0] == "INVALID_ARGUMENT"


def test_raw_and_typed_contents_are_not_mixed(wild: Any) -> None:
    request = infer_request("wild_numbers", shape=[1, 1], raw=bytes(4))
    request.inputs[0].contents.fp32_contents.append(1)
    code, text = refusal(wild, request)
    assert (code, "raw_input_contents" in text) == ("INVALID_ARGUMENT", True)
    request.ClearField("raw_input_contents")
    request.inputs[0].contents.int_contents.append(1)
    assert refusal(wild, request)[0] == "INVALID_ARGUMENT"


def test_missing_surplus_repeated_and_unnamed_tensors_are_refused(wild: Any) -> None:
    surplus = infer_request()
    surplus.inputs.add(name="MORE", datatype="FP32", shape=[1, 64])
    surplus.raw_input_contents.append(bytes(256))
    repeated = infer_request()
    repeated.inputs.append(repeated.inputs[0])
    repeated.raw_input_contents.append(bytes(256))
    missing = infer_request()
    missing.ClearField("inputs")
    without_data = infer_request()
    without_data.ClearField("raw_input_contents")
    unknown_output = infer_request()
    unknown_output.outputs.add(name="NOWHERE")
    for request in (surplus, repeated, missing, without_data, unknown_output, infer_request(name="")):
        assert refusal(wild, request)[0] == "INVALID_ARGUMENT"
    many = pb.ModelInferRequest(model_name="identity")
    for number in range(20_000):
        many.inputs.add(name=str(number), datatype="FP32", shape=[1, 64])
        many.raw_input_contents.append(b"")
    code, text = refusal(wild, many)
    assert code == "INVALID_ARGUMENT"
    assert len(text) < 8192


NAMES = [
    "",
    "nowhere",
    "x" * 5000,
    "../identity",
    "identity/1",
    "a\0b",
    ".",
    "..",
    " ",
    "\u202e" * 300,
    "é\n\r\t\x01\x7f",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:12])
def test_models_that_are_not_there_are_not_found(wild: Any, name: str) -> None:
    assert refusal(wild, infer_request(name))[0] == "NOT_FOUND"
    for call in (
        lambda: wild.ModelConfig(pb.ModelConfigRequest(name=name), timeout=PATIENCE),
        lambda: wild.ModelMetadata(pb.ModelMetadataRequest(name=name), timeout=PATIENCE),
        lambda: wild.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=PATIENCE),
    ):
        assert outcome(call)[0] == "NOT_FOUND"
    assert not wild.ModelReady(pb.ModelReadyRequest(name=name), timeout=PATIENCE).ready
    unload = pb.RepositoryModelUnloadRequest(model_name=name)
    assert outcome(lambda: wild.RepositoryModelUnload(unload, timeout=PATIENCE))[0] == "OK"


VERSIONS = {"9": "NOT_FOUND", "0": "NOT_FOUND", "-1": "INVALID_ARGUMENT", "one": "INVALID_ARGUMENT"}
VERSIONS |= {"9" * 30: "INVALID_ARGUMENT", "9" * 5_000_000: "INVALID_ARGUMENT", "-" * 100: "INVALID_ARGUMENT"}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version[:6] + str(len(version)))
def test_versions_that_are_not_there_are_not_found_and_what_is_none_is_refused(wild: Any, version: str) -> None:
    expected = VERSIONS[version]
    assert refusal(wild, infer_request(model_version=version))[0] == expected
    statistics = pb.ModelStatisticsRequest(name="identity", version=version)
    assert outcome(lambda: wild.ModelStatistics(statistics, timeout=PATIENCE))[0] == "INVALID_ARGUMENT"


REQUEST_PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("priority", {"int64_param": -1}),
    ("priority", {"string_param": "high"}),
    ("timeout", {"bool_param": True}),
    ("sequence_id", {"bool_param": True}),
    ("sequence_start", {"int64_param": 1}),
    ("triton_mine", {"int64_param": 1}),
    ("mine", {"uint64_param": 1}),
    ("mine", {}),
]


@pytest.mark.parametrize(("name", "value"), REQUEST_PARAMETERS, ids=str)
def test_parameters_without_sense_are_refused(wild: Any, name: str, value: dict[str, Any]) -> None:
    request = infer_request()
    request.parameters[name].CopyFrom(pb.InferParameter(**value))
    assert refusal(wild, request)[0] == "INVALID_ARGUMENT"


def test_numbers_at_the_ends_of_their_range_are_taken(wild: Any) -> None:
    request = infer_request()
    request.parameters["priority"].uint64_param = 2**64 - 1
    request.parameters["timeout"].int64_param = -MAX - 1
    request.parameters["mine"].int64_param = -MAX - 1
    assert refusal(wild, request)[0] == "OK"
