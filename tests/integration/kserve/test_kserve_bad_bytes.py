"""Bytes that are no messages, or too many of them, to every method: never INTERNAL or UNKNOWN, and never a hang."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kserve_calls import KSERVE, infer_request, load_request, outcome, stub_of
from support.serving import PATIENCE, Serving
from tritonclient.grpc import service_pb2 as pb

pytestmark = pytest.mark.usefixtures("next_request_works")
METHODS: dict[str, Any] = {
    name: getattr(pb, f"{request}Request")
    for name, request in {
        **{name: name for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")},
        **{name: name for name in ("ModelInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex", "TraceSetting")},
        **{name: name for name in ("RepositoryModelLoad", "RepositoryModelUnload", "LogSettings")},
        **{
            f"{kind}SharedMemory{verb}": f"{kind}SharedMemory{verb}"
            for kind, verb in itertools.product(("System", "Cuda"), ("Status", "Register", "Unregister"))
        },
    }.items()
}
EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "ALREADY_EXISTS"}
SHARED_MEMORY_KEY = {"SystemSharedMemoryRegister": {"INTERNAL"}}
"""Triton's code for a key that cannot be opened."""
methods = pytest.mark.parametrize("method", METHODS)
bounded = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def settings_stay(kserve: Serving) -> Iterator[None]:
    """What bytes may have set by chance is set back."""
    stub = stub_of(kserve.channel)
    before = stub.LogSettings(pb.LogSettingsRequest(), timeout=PATIENCE).settings
    yield
    request = pb.LogSettingsRequest()
    for key in ("log_error", "log_warning", "log_info", "log_verbose_level", "log_format"):
        request.settings[key].CopyFrom(pb.LogSettingsRequest.SettingValue.FromString(before[key].SerializeToString()))
    stub.LogSettings(request, timeout=PATIENCE)


def of_bytes(kserve: Serving, method: str, payload: bytes) -> str:
    call = kserve.channel.unary_unary(f"/{KSERVE}/{method}")
    code, text = outcome(lambda: call(payload, timeout=PATIENCE))
    assert "Traceback" not in text
    return code


@methods
@bounded
@given(payload=st.binary(max_size=200))
def test_random_bytes_never_break_a_method(kserve: Serving, method: str, payload: bytes) -> None:
    assert of_bytes(kserve, method, payload) in EXPECTED | SHARED_MEMORY_KEY.get(method, set())


def _whole(method: str) -> Any:
    """A message of a method that says as much as it can, and harms nobody."""
    wanted = infer_request("wild_rows", np.zeros((2, 3), np.float32), id="some id", model_version="1")
    wanted.parameters["sequence_id"].int64_param = 7
    wanted.parameters["mine"].string_param = "x"
    wanted.inputs[0].parameters["shared_memory_region"].string_param = "never"
    output = wanted.outputs.add(name="OUT")
    output.parameters["classification"].int64_param = 2
    trace = pb.TraceSettingRequest(model_name="identity")
    trace.settings["trace_rate"].value.append("5")
    log = pb.LogSettingsRequest()
    log.settings["log_verbose_level"].uint32_param = 1
    unload = pb.RepositoryModelUnloadRequest(model_name="not there")
    unload.parameters["unload_dependents"].bool_param = True
    region = {"name": "not here", "key": "not_there_at_all", "offset": 4096, "byte_size": 70_000}
    whole = {
        "ModelInfer": wanted,
        "TraceSetting": trace,
        "LogSettings": log,
        "RepositoryModelLoad": load_request("mutated"),
        "RepositoryModelUnload": unload,
        "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(**region),
        "CudaSharedMemoryRegister": pb.CudaSharedMemoryRegisterRequest(name="x", raw_handle=bytes(64), byte_size=10),
    }
    if method in whole:
        return whole[method]
    message = METHODS[method]()
    for field in message.DESCRIPTOR.fields_by_name:
        if field in ("name", "version"):
            setattr(message, field, {"name": "wild_rows", "version": "1"}[field])
    return message


def _damaged(payload: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(payload or b"\x0a\x03abc\x10\x05")
    for _ in range(dice.randint(1, 4)):
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    return bytes(damaged[: dice.randint(1, len(damaged))] if dice.random() < 0.3 else damaged)


@methods
def test_damaged_messages_never_break_a_method(kserve: Serving, wild: Any, method: str) -> None:
    dice = random.Random(method)
    payload = _whole(method).SerializeToString()
    expected = EXPECTED | SHARED_MEMORY_KEY.get(method, set())
    for _ in range(60):
        assert of_bytes(kserve, method, _damaged(payload, dice)) in expected


@bounded
@given(payload=st.binary(max_size=200))
def test_random_bytes_never_break_a_stream(kserve: Serving, payload: bytes) -> None:
    assert of_stream(kserve, [payload])[0] in {"OK", "INVALID_ARGUMENT"}


def test_damaged_messages_are_answered_each_on_a_stream_that_goes_on(kserve: Serving, wild: Any) -> None:
    dice = random.Random("stream")
    payload = _whole("ModelInfer").SerializeToString()
    messages = [_damaged(payload, dice) for _ in range(60)]
    code, answers = of_stream(kserve, [*messages, infer_request(id="last").SerializeToString()])
    assert (code, len(answers)) == ("OK", 61)
    assert answers[-1].infer_response.id == "last"
    assert not answers[-1].error_message
    assert not any("Traceback" in answer.error_message or "its log says" in answer.error_message for answer in answers)


def of_stream(kserve: Serving, messages: list[bytes]) -> tuple[str, list[pb.ModelStreamInferResponse]]:
    call: Any = kserve.channel.stream_stream(f"/{KSERVE}/ModelStreamInfer")(iter(messages), timeout=PATIENCE)
    answers: list[pb.ModelStreamInferResponse] = []

    def read() -> None:
        answers.extend(map(pb.ModelStreamInferResponse.FromString, call))

    return outcome(read)[0], answers


def test_an_unknown_method_is_unimplemented(kserve: Serving) -> None:
    assert of_bytes(kserve, "ModelForget", b"") == "UNIMPLEMENTED"


@pytest.mark.parametrize("more", [1000, 64 * 1024 * 1024])
def test_a_message_over_the_bound_is_refused_and_names_the_setting(kserve: Serving, more: int) -> None:
    request = infer_request()
    request.raw_input_contents.append(bytes(32 * 1024 * 1024 + more))
    call = kserve.channel.unary_unary(f"/{KSERVE}/ModelInfer")
    code, text = outcome(lambda: call(request.SerializeToString(), timeout=PATIENCE))
    assert code == "RESOURCE_EXHAUSTED"
    assert "max_message_bytes" in text or "larger than max" in text
    assert of_stream(kserve, [request.SerializeToString()])[0] == "RESOURCE_EXHAUSTED"


def test_a_message_that_unpacks_to_more_than_the_bound_is_refused(kserve: Serving) -> None:
    request = infer_request()
    request.raw_input_contents.append(bytes(128 * 1024 * 1024))
    call = stub_of(kserve.channel).ModelInfer
    code, _ = outcome(lambda: call(request, timeout=PATIENCE, compression=grpc.Compression.Gzip))
    assert code == "RESOURCE_EXHAUSTED"
