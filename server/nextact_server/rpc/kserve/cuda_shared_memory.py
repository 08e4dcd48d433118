"""CUDA shared memory: device memory of another process on this machine, opened by its IPC handle.

Tensors are copied between the device and this process's own memory, like those of system shared memory. The CUDA
runtime is imported when the first region is registered, and only where a GPU can be: it takes its time.
"""

import ctypes
import weakref
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextact_server.inference.device import cuda_possible
from nextact_server.inference.infer_errors import internal, invalid_argument

__all__ = ["Cuda", "CudaError", "CudaMemory", "CudaRuntime", "find_cuda"]

HANDLE_BYTES = 64
"""sizeof(cudaIpcMemHandle_t)."""

Bytes = NDArray[np.uint8]


class CudaError(RuntimeError):
    """A call of the CUDA runtime that failed."""


class Cuda(Protocol):
    """What is needed of a CUDA runtime. Every method raises CudaError."""

    def open(self, handle: bytes, device_id: int, byte_size: int) -> int:
        """The address on the device of another process's memory, of which at least that many bytes are there."""

    def close(self, address: int, device_id: int) -> None:
        """Let the memory go."""

    def to_host(self, host: Bytes, address: int, device_id: int) -> None:
        """Fill an array from the device; returns when it is there."""

    def to_device(self, address: int, host: Bytes, device_id: int) -> None:
        """Copy an array to the device; returns when it is there."""


class CudaMemory:
    """Device memory of another process, open as long as somebody holds this."""

    def __init__(self, cuda: Cuda | None, name: str, handle: bytes, device_id: int, byte_size: int) -> None:
        """Open it for the region `name`.

        Raises:
            InferError: INVALID_ARGUMENT: there is no GPU, or the handle is not one that can be opened here.
        """
        if cuda is None:
            raise invalid_argument(f"failed to register CUDA shared memory region: '{name}', GPUs not supported")
        self.device_id = device_id
        self.byte_size = byte_size
        self._cuda = cuda
        refused = invalid_argument("failed to register shared memory region: invalid args")
        if len(handle) != HANDLE_BYTES or device_id < 0 or byte_size == 0:
            raise refused
        try:
            self._address = cuda.open(handle, device_id, byte_size)
        except CudaError as error:
            raise refused from error
        # Not at exit: CUDA may be gone by then, and lets everything go itself.
        weakref.finalize(self, cuda.close, self._address, device_id).atexit = False

    def read(self, offset: int, byte_size: int) -> memoryview:
        """A copy of some bytes; the caller has checked that they are within the region."""
        host = np.empty(byte_size, np.uint8)
        try:
            self._cuda.to_host(host, self._address + offset, self.device_id)
        except CudaError as error:
            raise internal(f"failed to copy from CUDA shared memory: {error}") from error
        return host.data

    def write(self, offset: int, views: list[memoryview]) -> None:
        """Put flat views one behind the other; the caller has checked that they fit."""
        at = self._address + offset
        try:
            for view in views:
                self._cuda.to_device(at, np.frombuffer(view, np.uint8), self.device_id)
                at += view.nbytes
        except CudaError as error:
            raise internal(f"failed to copy to CUDA shared memory: {error}") from error


class CudaRuntime:
    """CUDA's own runtime, through cuda-bindings (which comes with torch)."""

    def __init__(self) -> None:
        """Import it. Raises ImportError where it is not installed."""
        self._driver: Any = import_module("cuda.bindings.driver")
        self._runtime: Any = import_module("cuda.bindings.runtime")

    def open(self, handle: bytes, device_id: int, byte_size: int) -> int:
        """See `Cuda`."""
        runtime = self._runtime
        self._use(device_id)
        opaque = runtime.cudaIpcMemHandle_t()
        ctypes.memmove(opaque.getPtr(), handle, HANDLE_BYTES)  # since cuda-bindings 13 it has no other way in
        lazy = runtime.cudaIpcMemLazyEnablePeerAccess
        address = int(self._checked(*runtime.cudaIpcOpenMemHandle(opaque, lazy)))
        status, _, size = self._driver.cuMemGetAddressRange(address)
        if status == self._driver.CUresult.CUDA_SUCCESS and byte_size > int(size):
            self.close(address, device_id)
            raise CudaError(f"the memory has {size} bytes, not {byte_size}")
        return address

    def close(self, address: int, device_id: int) -> None:
        """See `Cuda`."""
        self._use(device_id)
        self._checked(*self._runtime.cudaIpcCloseMemHandle(address))

    def to_host(self, host: Bytes, address: int, device_id: int) -> None:
        """See `Cuda`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._use(device_id)
        self._checked(*self._runtime.cudaMemcpy(host.ctypes.data, address, host.nbytes, kind))

    def to_device(self, address: int, host: Bytes, device_id: int) -> None:
        """See `Cuda`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._use(device_id)
        self._checked(*self._runtime.cudaMemcpy(address, host.ctypes.data, host.nbytes, kind))
        # From pageable memory the copy returns once the data is staged, and the peer may look at once.
        self._checked(*self._runtime.cudaStreamSynchronize(0))

    def _use(self, device_id: int) -> None:
        self._checked(*self._runtime.cudaSetDevice(device_id))

    def _checked(self, status: Any, *values: Any) -> Any:
        if status != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(status)
            raise CudaError(text.decode() if isinstance(text, bytes) else str(text))
        return values[0] if values else None


def find_cuda() -> Cuda | None:
    """The CUDA runtime, or None where there is no GPU, or no package to reach it. Takes a second where there is one."""
    if not cuda_possible():
        return None
    try:
        return CudaRuntime()
    except ImportError:
        return None
