"""Shared memory that is not there, too small, or taken away: refused, and nobody is killed by it."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kserve_calls import infer_request, outcome, refusal
from support.serving import PATIENCE
from tritonclient.grpc import service_pb2 as pb

pytestmark = pytest.mark.usefixtures("next_request_works")
MAX = 2**63 - 1


@pytest.fixture
def region() -> Iterator[Path]:
    """An object of 1 MiB in shared memory."""
    path = Path("/dev/shm", f"nextact-{uuid.uuid4().hex}")
    with path.open("wb") as file:
        file.truncate(2**20)
    yield path
    path.unlink(missing_ok=True)


def shared(request: pb.ModelInferRequest, region: str, byte_size: int = 256, offset: int = 0) -> pb.ModelInferRequest:
    request.ClearField("raw_input_contents")
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = byte_size
    parameters["shared_memory_offset"].int64_param = offset
    return request


def registered(stub: Any, name: str, key: str, byte_size: int, offset: int = 0) -> str:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=byte_size, offset=offset)
    return outcome(lambda: stub.SystemSharedMemoryRegister(request, timeout=PATIENCE))[0]


def test_a_region_never_registered_is_not_found(wild: Any) -> None:
    assert refusal(wild, shared(infer_request(), "never"))[0] == "NOT_FOUND"


def test_a_region_too_small_is_refused_when_it_is_registered_and_when_it_is_used(wild: Any, region: Path) -> None:
    assert registered(wild, "large", region.name, 2**20 + 1) == "INVALID_ARGUMENT"
    assert registered(wild, "far", region.name, 2**64 - 1) == "INVALID_ARGUMENT"
    assert registered(wild, "far", region.name, 2**63, 2**63) == "INVALID_ARGUMENT"
    assert registered(wild, "small", region.name, 255) == "OK"
    for byte_size, offset in ((256, 0), (255, 0), (1, 255), (MAX, 0), (MAX, MAX), (-1, 0), (0, 0), (255, -1), (4, MAX)):
        assert refusal(wild, shared(infer_request(), "small", byte_size, offset))[0] == "INVALID_ARGUMENT"
    wild.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="small"))


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "", ".", "a\0b", "x" * 5000, "nowhere"])
def test_a_key_is_a_name_and_never_a_way_to_another_file(wild: Any, key: str) -> None:
    assert registered(wild, "elsewhere", key, 1) == "INTERNAL"  # which is Triton's code for it


def test_a_region_cut_short_while_registered_is_refused_both_ways_and_kills_nobody(wild: Any, region: Path) -> None:
    assert registered(wild, "cut", region.name, 4096) == "OK"
    os.truncate(region, 100)
    assert refusal(wild, shared(infer_request(), "cut"))[0] == "INVALID_ARGUMENT"
    outward = infer_request()
    output = outward.outputs.add(name="OUT")
    output.parameters["shared_memory_region"].string_param = "cut"
    output.parameters["shared_memory_byte_size"].int64_param = 256
    assert refusal(wild, outward)[0] == "INVALID_ARGUMENT"
    assert region.stat().st_size == 100
    wild.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="cut"))


def test_no_room_is_made_for_more_of_a_region_than_a_tensor_has(wild: Any, region: Path) -> None:
    huge = 2**45  # a file with a hole: it takes no memory, a copy of it would
    os.truncate(region, huge)
    assert registered(wild, "huge", region.name, huge) == "OK"
    code, text = refusal(wild, shared(infer_request(), "huge", huge))
    assert (code, f"Expected 256, got {huge}" in text) == ("INVALID_ARGUMENT", True)
    wild.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="huge"))
