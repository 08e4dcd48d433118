"""inference.GRPCInferenceService without its inference: health, metadata, statistics, repository, memory, settings."""

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.rpc.decode import parse
from nextact_server.rpc.kserve.control_registry import ModelRegistry
from nextact_server.rpc.kserve.log_settings import LogSettings
from nextact_server.rpc.kserve.metadata import model_metadata, server_metadata
from nextact_server.rpc.kserve.repository_control import RepositoryControl
from nextact_server.rpc.kserve.shared_memory_control import SharedMemoryControl
from nextact_server.rpc.kserve.statistics import model_statistics
from nextact_server.rpc.kserve.trace import Tracer

__all__ = ["ControlService"]

UnaryMethod = Callable[[bytes], Awaitable[bytes]]


class ControlService:
    """The methods by name, each from request bytes to response bytes.

    They raise CallError for bytes that are no message, and InferError.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        memory: SharedMemoryControl,
        tracer: Tracer,
        log: LogSettings,
        *,
        ready: Callable[[], bool],
        version: str,
        cuda: bool = False,
    ) -> None:
        """`ready` says whether this server takes requests: models loaded, store serving, not draining. `cuda`: whether
        CUDA shared memory is offered."""
        self._registry = registry
        self._repository = RepositoryControl(registry)
        self._tracer = tracer
        self._ready = ready
        self._server_metadata: bytes = server_metadata(version, cuda=cuda).SerializeToString()
        self.methods: dict[str, UnaryMethod] = {
            "ServerLive": _method(pb.ServerLiveRequest, self._server_live),
            "ServerReady": _method(pb.ServerReadyRequest, self._server_is_ready),
            "ModelReady": _method(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": self._metadata,
            "ModelMetadata": _method(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": _method(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": _method(pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": _awaited(pb.RepositoryIndexRequest, self._repository.index),
            "RepositoryModelLoad": _awaited(pb.RepositoryModelLoadRequest, self._repository.load),
            "RepositoryModelUnload": _awaited(pb.RepositoryModelUnloadRequest, self._repository.unload),
            "SystemSharedMemoryStatus": _method(pb.SystemSharedMemoryStatusRequest, memory.system_status),
            "SystemSharedMemoryRegister": _method(pb.SystemSharedMemoryRegisterRequest, memory.system_register),
            "SystemSharedMemoryUnregister": _method(pb.SystemSharedMemoryUnregisterRequest, memory.system_unregister),
            "CudaSharedMemoryStatus": _method(pb.CudaSharedMemoryStatusRequest, memory.cuda_status),
            "CudaSharedMemoryRegister": _awaited(pb.CudaSharedMemoryRegisterRequest, memory.cuda_register),
            "CudaSharedMemoryUnregister": _method(pb.CudaSharedMemoryUnregisterRequest, memory.cuda_unregister),
            "TraceSetting": _method(pb.TraceSettingRequest, self._trace_setting),
            "LogSettings": _method(pb.LogSettingsRequest, log.apply),
        }

    def close(self) -> None:
        """Begin no more loads."""
        self._repository.close()

    def _server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _server_is_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    async def _metadata(self, payload: bytes) -> bytes:
        parse(pb.ServerMetadataRequest, payload)
        return self._server_metadata

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._registry.is_ready(request.name, request.version))

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        spec = self._registry.get(request.name, request.version).spec
        return model_metadata(spec, [spec.version] if request.version else self._registry.versions(request.name))

    def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=self._registry.get(request.name, request.version).config)

    def _model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        return model_statistics(self._registry, request.name, request.version)

    def _trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        if request.model_name and not self._registry.is_ready(request.model_name, ""):
            raise invalid_argument(f"Request for unknown model : {request.model_name}")
        self._tracer.update(request.model_name, {key: list(value.value) for key, value in request.settings.items()})
        response = pb.TraceSettingResponse()
        for key, values in self._tracer.settings(request.model_name).items():
            response.settings[key].value.extend(values)
        return response


def _method(kind: Any, answer: Callable[[Any], Message]) -> UnaryMethod:
    """A method that answers at once."""

    async def method(payload: bytes) -> bytes:
        return answer(parse(kind, payload)).SerializeToString()

    return method


def _awaited(kind: Any, answer: Callable[[Any], Awaitable[Message]]) -> UnaryMethod:
    """A method that takes its time."""

    async def method(payload: bytes) -> bytes:
        return (await answer(parse(kind, payload))).SerializeToString()

    return method
