"""CUDA shared memory: against a device made of host memory, and against a real one where there is one."""

import ctypes
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from control_fakes import House
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.device import cuda_possible
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.rpc.kserve.cuda_shared_memory import Bytes, CudaError, find_cuda

SIZE = 64
HANDLE = b"h" * 64


class HostCuda:
    """A device whose memory is an array; the handle `HANDLE` opens it."""

    def __init__(self) -> None:
        self.device = np.arange(SIZE, dtype=np.uint8)
        self.opened = 0
        self.broken = False

    def open(self, handle: bytes, device_id: int, byte_size: int) -> int:
        if handle != HANDLE or device_id or byte_size > SIZE:
            raise CudaError("invalid argument")
        self.opened += 1
        return int(self.device.ctypes.data)

    def close(self, address: int, device_id: int) -> None:
        self.opened -= 1

    def to_host(self, host: Bytes, address: int, device_id: int) -> None:
        self._move(host.ctypes.data, address, host.nbytes)

    def to_device(self, address: int, host: Bytes, device_id: int) -> None:
        self._move(address, host.ctypes.data, host.nbytes)

    def _move(self, to: int, start: int, byte_size: int) -> None:
        if self.broken:
            raise CudaError("an illegal memory access was encountered")
        ctypes.memmove(to, start, byte_size)


def register(house: House, name: str, handle: bytes = HANDLE, device_id: int = 0, byte_size: int = SIZE) -> None:
    request = pb.CudaSharedMemoryRegisterRequest(name=name, raw_handle=handle, device_id=device_id, byte_size=byte_size)
    house.call("CudaSharedMemoryRegister", request, pb.CudaSharedMemoryRegisterResponse)


def status(house: House, name: str = "") -> dict[str, tuple[Any, ...]]:
    request = pb.CudaSharedMemoryStatusRequest(name=name)
    regions = house.call("CudaSharedMemoryStatus", request, pb.CudaSharedMemoryStatusResponse).regions
    return {key: (region.name, region.device_id, region.byte_size) for key, region in regions.items()}


def unregister(house: House, name: str = "") -> None:
    request = pb.CudaSharedMemoryUnregisterRequest(name=name)
    house.call("CudaSharedMemoryUnregister", request, pb.CudaSharedMemoryUnregisterResponse)


def test_without_a_gpu_registering_says_so_and_the_rest_works() -> None:
    house = House()
    with pytest.raises(InferError) as no:
        register(house, "r")
    assert (no.value.code, no.value.message) == (
        ErrorCode.INVALID_ARG,
        "failed to register CUDA shared memory region: 'r', GPUs not supported",
    )
    assert status(house) == {}
    unregister(house, "r")
    unregister(house)
    with pytest.raises(InferError, match="Unable to find cuda shared memory region: 'r'"):
        status(house, "r")


def test_tensors_are_copied_from_the_device_and_to_it() -> None:
    cuda = HostCuda()
    house = House(cuda=cuda)
    register(house, "r")
    assert status(house) == status(house, "r") == {"r": ("r", 0, SIZE)}
    assert bytes(house.memory.read("r", 4, 3)) == b"\x04\x05\x06"
    house.memory.write("r", 1, [b"ab", np.array([9], np.uint8).data])
    assert bytes(cuda.device[:5]) == b"\x00ab\x09\x04"
    with pytest.raises(InferError, match=r"Invalid offset \+ byte size for shared memory region: 'r'"):
        house.memory.read("r", 60, 8)


def test_device_memory_is_let_go_once_nobody_uses_it() -> None:
    cuda = HostCuda()
    house = House(cuda=cuda)
    register(house, "r")
    window = house.memory.window("r", 0, 4)
    unregister(house)
    assert cuda.opened == 1
    assert bytes(window.read()) == b"\x00\x01\x02\x03"
    del window
    assert cuda.opened == 0


@pytest.mark.parametrize(
    ("handle", "device_id", "byte_size"),
    [
        (b"", 0, SIZE),
        (b"x" * 64, 0, SIZE),
        (HANDLE[:63], 0, SIZE),
        (HANDLE, -1, SIZE),
        (HANDLE, 7, SIZE),
        (HANDLE, 0, 0),
        (HANDLE, 0, SIZE + 1),
    ],
)
def test_what_the_device_does_not_open_is_refused(handle: bytes, device_id: int, byte_size: int) -> None:
    with pytest.raises(InferError) as no:
        register(House(cuda=HostCuda()), "r", handle, device_id, byte_size)
    assert (no.value.code, no.value.message) == (
        ErrorCode.INVALID_ARG,
        "failed to register shared memory region: invalid args",
    )


def test_a_name_is_registered_once_whatever_its_kind() -> None:
    house = House(cuda=HostCuda())
    register(house, "r")
    with pytest.raises(InferError, match="shared memory region 'r' already in manager"):
        register(house, "r")
    request = pb.SystemSharedMemoryRegisterRequest(name="r", key="/x", byte_size=1)
    with pytest.raises(InferError, match="shared memory region 'r' already in manager"):
        house.call("SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)
    with pytest.raises(InferError, match="The region named 'r' is registered as CUDA shared memory, not system shared"):
        house.call("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="r"), pb.ServerLiveResponse)
    house.call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(), pb.ServerLiveResponse)
    assert list(status(house)) == ["r"], "it is not of system shared memory"


def test_a_copy_that_fails_is_an_error_of_that_request() -> None:
    cuda = HostCuda()
    house = House(cuda=cuda)
    register(house, "r")
    cuda.broken = True
    with pytest.raises(InferError, match="failed to copy from CUDA shared memory: an illegal memory access"):
        house.memory.read("r", 0, 4)
    with pytest.raises(InferError, match="failed to copy to CUDA shared memory: an illegal memory access"):
        house.memory.write("r", 0, [b"a"])


PEER = """
import sys
import numpy as np
import tritonclient.utils.cuda_shared_memory as memory
handle = memory.create_shared_memory_region("r", 64, 0)
memory.set_shared_memory_region(handle, [np.arange(64, dtype=np.uint8)])
print(memory.get_raw_handle(handle).decode(), flush=True)
sys.stdin.readline()
print(memory.get_contents_as_numpy(handle, np.uint8, [64]).tobytes().hex(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not cuda_possible(), reason="no GPU on this machine")
def test_memory_of_another_process_on_a_real_device_is_read_and_written() -> None:
    import base64

    peer = subprocess.Popen([sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin is not None
    assert peer.stdout is not None
    try:
        handle = base64.b64decode(peer.stdout.readline())
        house = House(cuda=find_cuda())
        register(house, "r", handle)
        assert bytes(house.memory.read("r", 4, 3)) == b"\x04\x05\x06"
        house.memory.write("r", 0, [b"ab"])
        peer.stdin.write("\n")
        peer.stdin.flush()
        assert bytes.fromhex(peer.stdout.readline())[:3] == b"ab\x02"
        unregister(house)
    finally:
        peer.kill()
        peer.wait()
