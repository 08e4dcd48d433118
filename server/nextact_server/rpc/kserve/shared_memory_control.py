"""The RPCs that register, list and unregister shared memory, of either kind."""

import asyncio
from collections.abc import Callable
from functools import cache

from tritonclient.grpc import service_pb2 as pb

from nextact_server.rpc.kserve.cuda_shared_memory import Cuda, CudaMemory, find_cuda
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.shared_memory_system import SystemMemory

__all__ = ["SharedMemoryControl"]


class SharedMemoryControl:
    """Registers regions for callers; `cuda` is called once, for the first CUDA region. Raises InferError."""

    def __init__(self, memory: SharedMemory, cuda: Callable[[], Cuda | None] = find_cuda) -> None:
        self._memory = memory
        self._cuda = cache(cuda)

    def system_status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        """All regions, or the one of that name."""
        response = pb.SystemSharedMemoryStatusResponse()
        for name, memory in self._memory.of_kind(SystemMemory, "system", request.name).items():
            region = response.regions[name]
            region.name, region.key = name, memory.key
            region.offset, region.byte_size = memory.offset, memory.byte_size
        return response

    def system_register(self, request: pb.SystemSharedMemoryRegisterRequest) -> pb.SystemSharedMemoryRegisterResponse:
        """Open an object of /dev/shm under a name."""
        self._memory.check_free(request.name)
        memory = SystemMemory(request.name, request.key, request.offset, request.byte_size)
        self._memory.add(request.name, memory)
        return pb.SystemSharedMemoryRegisterResponse()

    def system_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all."""
        self._memory.remove(SystemMemory, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def cuda_status(self, request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        """All regions, or the one of that name."""
        response = pb.CudaSharedMemoryStatusResponse()
        for name, memory in self._memory.of_kind(CudaMemory, "cuda", request.name).items():
            region = response.regions[name]
            region.name, region.device_id, region.byte_size = name, memory.device_id, memory.byte_size
        return response

    async def cuda_register(self, request: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        """Open device memory under a name; on a thread, since the first one starts CUDA."""
        self._memory.check_free(request.name)
        memory = await asyncio.to_thread(self._opened, request)
        self._memory.add(request.name, memory)
        return pb.CudaSharedMemoryRegisterResponse()

    def cuda_unregister(self, request: pb.CudaSharedMemoryUnregisterRequest) -> pb.CudaSharedMemoryUnregisterResponse:
        """Forget a region, or all."""
        self._memory.remove(CudaMemory, request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

    def _opened(self, request: pb.CudaSharedMemoryRegisterRequest) -> CudaMemory:
        return CudaMemory(self._cuda(), request.name, bytes(request.raw_handle), request.device_id, request.byte_size)
