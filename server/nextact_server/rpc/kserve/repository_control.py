"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import TypeVar

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument
from nextact_server.repository.daemon_threads import DaemonThreads
from nextact_server.rpc.kserve.control_registry import ModelRegistry

__all__ = ["RepositoryControl", "load_parameters", "unload_dependents"]

T = TypeVar("T")

FILE = "file:"
LOADS_AT_ONCE = 16
UNLOADS_AT_ONCE = 16


class RepositoryControl:
    """Asks the registry on threads of its own: loading a model takes seconds, and the event loop must not stand still.

    A caller that goes away does not stop what it began, as in Triton. A model may block while it is loaded, so loads,
    unloads and looks at the index do not wait for each other.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._loads = DaemonThreads(LOADS_AT_ONCE, "repository-load")
        self._unloads = DaemonThreads(UNLOADS_AT_ONCE, "repository-unload")
        self._looks = DaemonThreads(1, "repository-index")

    async def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """What the repository holds."""
        _check_repository(request.repository_name)
        entries = await self._run(self._looks, lambda: self._registry.index(request.ready))
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
                )
                for entry in entries
            ]
        )

    async def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load or reload a model; returns when it serves."""
        _check_repository(request.repository_name)
        config, files = load_parameters(request.parameters)
        await self._run(self._loads, lambda: self._registry.load(request.model_name, config, files))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Unload a model."""
        _check_repository(request.repository_name)
        dependents = unload_dependents(request.parameters)
        await self._run(self._unloads, lambda: self._registry.unload(request.model_name, dependents))
        return pb.RepositoryModelUnloadResponse()

    def close(self) -> None:
        """Begin nothing more; what runs goes on."""
        for threads in (self._loads, self._unloads, self._looks):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, threads: Executor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def load_parameters(
    parameters: Mapping[str, pb.ModelRepositoryParameter],
) -> tuple[str | None, dict[str, bytes]]:
    """The configuration (JSON) and the files, by their path, that a load brings. Raises INVALID_ARGUMENT."""
    config: str | None = None
    files: dict[str, bytes] = {}
    for key, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if key == "config":
            if kind != "string_param":
                raise invalid_argument("invalid value type for load parameter 'config', expected string_param.")
            config = parameter.string_param
        elif key.startswith(FILE):
            if kind != "bytes_param":
                raise invalid_argument(f"invalid value type for load parameter '{key}', expected bytes_param.")
            files[key.removeprefix(FILE)] = parameter.bytes_param
        else:
            raise invalid_argument(f"unrecognized load parameter '{key}'.")
    return config, files


def unload_dependents(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> bool:
    """Whether the models that an ensemble is made of go too; other keys count for nothing. Raises INVALID_ARGUMENT."""
    if "unload_dependents" not in parameters:
        return False
    parameter = parameters["unload_dependents"]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise invalid_argument("invalid value type for 'unload_dependents' parameter, expected bool_param.")
    return bool(parameter.bool_param)


def _check_repository(name: str) -> None:
    if name:
        raise InferError(ErrorCode.UNSUPPORTED, "'repository_name' specification is not supported")
