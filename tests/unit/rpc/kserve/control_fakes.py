"""A registry that holds what a test puts into it, and a way to call the control RPCs through bytes."""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import InferError, not_found
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType
from nextact_server.repository.policy import parse_version
from nextact_server.repository.served import ServedModel
from nextact_server.rpc.kserve.control import ControlService
from nextact_server.rpc.kserve.cuda_shared_memory import Cuda
from nextact_server.rpc.kserve.log_settings import LogSettings
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.shared_memory_control import SharedMemoryControl
from nextact_server.rpc.kserve.trace import Tracer


class NoScheduler:
    """Takes no request."""

    def submit(self, requests: Sequence[InferRequest]) -> None:
        raise AssertionError("control RPCs infer nothing")

    def close(self, *, drain: bool = True) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Entry:
    """A line of the index."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


def served(name: str, version: int = 1, **spec: Any) -> ServedModel:
    """A ready version of a model."""
    fields: dict[str, Any] = {
        "platform": "python",
        "inputs": (TensorSpec("IN", DataType.FP32, (4,)),),
        "outputs": (TensorSpec("OUT", DataType.FP32, (4,)),),
    }
    config = model_config_pb2.ModelConfig(name=name, backend="python")
    model_spec = ModelSpec(name, version, **{**fields, **spec})
    return ServedModel(model_spec, config, ModelStatistics(), NoScheduler())


class FakeRegistry:
    """Keeps ready versions, and notes what it is asked to load and unload."""

    def __init__(self, *models: ServedModel) -> None:
        self.models = list(models)
        self.entries: list[Entry] = []
        self.loaded: list[tuple[str, str | None, dict[str, bytes]]] = []
        self.unloaded: list[tuple[str, bool]] = []
        self.failure: InferError | None = None

    def get(self, name: str, version: str) -> ServedModel:
        number = parse_version(version) if version else None
        of_name = [model for model in self.models if model.spec.name == name]
        if not of_name:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        found = [model for model in of_name if number in (None, model.spec.version)]
        if not found:
            raise not_found(f"Request for unknown model: '{name}' version {version} is not found")
        return max(found, key=lambda model: model.spec.version)

    def versions(self, name: str) -> list[int]:
        return sorted(model.spec.version for model in self.models if model.spec.name == name)

    def all(self) -> list[ServedModel]:
        return self.models

    def is_ready(self, name: str, version: str) -> bool:
        number = parse_version(version) if version else None
        return any(model.spec.name == name and number in (None, model.spec.version) for model in self.models)

    def index(self, ready_only: bool) -> list[Entry]:
        return [entry for entry in self.entries if entry.state == "READY" or not ready_only]

    def load(self, name: str, config_json: str | None, files: Mapping[str, bytes]) -> None:
        if self.failure is not None:
            raise self.failure
        self.loaded.append((name, config_json, dict(files)))

    def unload(self, name: str, unload_dependents: bool) -> None:
        self.unloaded.append((name, unload_dependents))


class House:
    """A control service and what it controls."""

    def __init__(self, *models: ServedModel, tracer: Tracer | None = None, cuda: Cuda | None = None) -> None:
        self.registry = FakeRegistry(*models)
        self.memory = SharedMemory()
        self.tracer = tracer or Tracer()
        self.logger = logging.getLogger(f"server-{uuid.uuid4().hex}")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.handler = logging.StreamHandler()
        self.logger.addHandler(self.handler)
        self.is_ready = True
        self.service = ControlService(
            self.registry,
            SharedMemoryControl(self.memory, lambda: cuda),
            self.tracer,
            LogSettings(self.logger, lambda: self.logger.handlers),
            ready=lambda: self.is_ready,
            version="1.2.3",
            cuda=cuda is not None,
        )

    def call(self, method: str, request: Message, answer: type[Any]) -> Any:
        """The answer to a request, by way of bytes."""
        payload = request.SerializeToString()
        return answer.FromString(asyncio.run(self.service.methods[method](payload)))
