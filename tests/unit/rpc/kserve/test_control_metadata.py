"""Health and metadata: what the server and its models say of themselves."""

import asyncio
from typing import Any

import pytest
from control_fakes import House, served
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import TensorSpec
from nextact_server.inference.tensors import DataType
from nextact_server.rpc.errors import CallError


def test_every_rpc_but_the_inferring_ones_has_a_method() -> None:
    rpcs = {name for name in vars(service_pb2_grpc.GRPCInferenceServiceServicer) if not name.startswith("_")}
    assert set(House().service.methods) == rpcs - {"ModelInfer", "ModelStreamInfer"}


def test_bytes_that_are_no_message_are_the_callers_mistake() -> None:
    for name, method in House().service.methods.items():
        with pytest.raises(CallError, match="ends in the middle") as no:
            asyncio.run(method(b"\x0a\xff"))
        assert no.value.code.name == "INVALID_ARGUMENT", name


def test_a_server_lives_and_is_ready_when_it_says_so() -> None:
    house = House()
    assert house.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert house.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    house.is_ready = False
    assert house.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert not house.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready


def test_the_server_names_itself_and_only_what_it_offers() -> None:
    answer = House().call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert (answer.name, answer.version) == ("nextact", "1.2.3")
    assert {"statistics", "trace", "logging", "system_shared_memory", "model_repository"} <= set(answer.extensions)
    assert "cuda_shared_memory" not in answer.extensions, "there is no GPU"


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("m", "", True), ("m", "2", True), ("m", "02", True), ("m", "9", False), ("nosuch", "", False), ("", "", False)],
)
def test_model_ready_is_false_for_what_is_not_there(name: str, version: str, ready: bool) -> None:
    request = pb.ModelReadyRequest(name=name, version=version)
    assert House(served("m", 2)).call("ModelReady", request, pb.ModelReadyResponse).ready is ready


def test_metadata_shows_shapes_with_the_batch_axis_in_front() -> None:
    model = served(
        "m",
        2,
        max_batch_size=8,
        inputs=(TensorSpec("A", DataType.BYTES, (-1,)), TensorSpec("B", DataType.FP32, (2,), reshape=(1, 2))),
        outputs=(TensorSpec("C", DataType.BF16, (3, 4)),),
    )
    answer = metadata(House(served("m", 1), model), name="m")
    assert (answer.name, answer.platform, list(answer.versions)) == ("m", "python", ["1", "2"])
    shapes = {t.name: (t.datatype, list(t.shape)) for t in [*answer.inputs, *answer.outputs]}
    assert shapes == {"A": ("BYTES", [-1, -1]), "B": ("FP32", [-1, 2]), "C": ("BF16", [-1, 3, 4])}


def test_metadata_of_a_model_that_does_not_batch_shows_its_dims_and_the_version_asked_for() -> None:
    answer = metadata(House(served("m", 1), served("m", 3)), name="m", version="1")
    assert list(answer.versions) == ["1"]
    assert list(answer.inputs[0].shape) == [4]


def test_config_is_the_completed_one() -> None:
    model = served("m")
    answer = House(model).call("ModelConfig", pb.ModelConfigRequest(name="m"), pb.ModelConfigResponse)
    assert answer.config == model.config


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(
    ("name", "version", "code", "message"),
    [
        ("nosuch", "", ErrorCode.NOT_FOUND, "Request for unknown model: 'nosuch' is not found"),
        ("m", "9", ErrorCode.NOT_FOUND, "Request for unknown model: 'm' version 9 is not found"),
        (
            "m",
            "abc",
            ErrorCode.INVALID_ARG,
            (
                "failed to get model version from specified version string 'abc' (details: stol), "
                "version should be an integral value > 0"
            ),
        ),
        (
            "m",
            "-1",
            ErrorCode.INVALID_ARG,
            "invalid model version specified '-1' , version should be an integral value > 0",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_as_triton_does(
    method: str, name: str, version: str, code: ErrorCode, message: str
) -> None:
    request = getattr(pb, f"{method}Request")(name=name, version=version)
    with pytest.raises(InferError) as no:
        House(served("m")).call(method, request, pb.ModelMetadataResponse)
    assert (no.value.code, no.value.message) == (code, message)


def metadata(house: House, **request: str) -> Any:
    return house.call("ModelMetadata", pb.ModelMetadataRequest(**request), pb.ModelMetadataResponse)
