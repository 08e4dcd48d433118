"""Models of the python backend in a temporary repository, run without a server."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
from google.protobuf import text_format
from prometheus_client import CollectorRegistry
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nextact_server.inference.infer_errors import InferError, not_found
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import InstanceGroup, ModelSpec, Placement, TensorSpec
from nextact_server.inference.instance import ModelDoor, ModelInstance, StageTimes
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.backends.python import PythonBackend

HEAD = "import json, threading\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n"
X = np.array([[1, 2, 3, 4]], np.float32)

Answer = tuple[InferResponse | InferError | None, bool]


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.finished = threading.Event()

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        self.answers.append((response, final))
        if final:
            self.finished.set()

    def wait(self) -> list[Answer]:
        assert self.finished.wait(10), f"no final response after {self.answers}"
        return self.answers

    def values(self, output: str = "OUT") -> list[Any]:
        """Each response as its output's list, an error as its message, the empty last one as None."""
        self.wait()
        return [value_of(response, output) for response, _ in self.answers]

    def value(self) -> Any:
        """The only response."""
        (value,) = self.values()
        return value


def value_of(response: InferResponse | InferError | None, output: str = "OUT") -> Any:
    if isinstance(response, InferError):
        return response.message
    return None if response is None else response.outputs[output].reshape(-1).tolist()


def request_of(sink: Sink, array: Any = X, **more: Any) -> InferRequest:
    inputs = array if isinstance(array, dict) else {"IN": np.asarray(array)}
    for value in inputs.values():
        value.flags.writeable = False  # as the transport hands them over
    return InferRequest(inputs, sink, **more)


def execute(instance: ModelInstance, requests: Sequence[InferRequest]) -> None:
    """Run a batch as a scheduler does."""
    try:
        results = instance.execute(requests, StageTimes())
    except InferError as error:
        results = [error] * len(requests)
    for request, result in zip(requests, results, strict=True):
        if result is not None:
            request.respond(result)


def ask(instance: ModelInstance, array: Any = X, **more: Any) -> Sink:
    """One request, given to the instance; its sink."""
    sink = Sink()
    execute(instance, [request_of(sink, array, **more)])
    return sink


class Door:
    """Other models: functions that answer a request, by name."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[ModelSpec, Callable[[InferRequest], object]]] = {}
        self.asked: list[tuple[str, str, InferRequest]] = []
        self.calls: list[tuple[Any, ...]] = []

    def add(self, name: str, answer: Callable[[InferRequest], object], *, decoupled: bool = False) -> None:
        self.models[name] = (ModelSpec(name, 1, "", (), (), decoupled=decoupled), answer)

    def infer(self, name: str, version: str, request: InferRequest) -> None:
        self.spec(name, version)
        self.asked.append((name, version, request))
        self.models[name][1](request)

    def spec(self, name: str, version: str) -> ModelSpec:
        if name not in self.models:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        return self.models[name][0]

    def is_ready(self, name: str, version: str = "") -> bool:
        return name in self.models

    def load(self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        if name == "bad":
            raise not_found("no such thing")
        self.calls.append(("load", name, config_json, files))

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        self.calls.append(("unload", name, unload_dependents))


class House:
    """A repository, a backend, and everything that was loaded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = CollectorRegistry()
        self.backend = PythonBackend(self.registry)
        self.door = Door()
        self._instances: list[ModelInstance] = []

    def write(self, name: str, code: str, files: Mapping[str, str] | None = None, head: str = HEAD) -> Path:
        directory = self.root / name
        for path, text in {"1/model.py": head + dedent(code), **(files or {})}.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(dedent(text))
        return directory

    def config(self, name: str, text: str = "") -> Any:
        config = text_format.Parse(text, ModelConfig())
        config.name, config.backend = name, "python"
        return config

    def version(self, name: str, config: str = "", door: ModelDoor | None = None, **spec: Any) -> Any:
        whole = ModelSpec(
            name,
            1,
            "",
            **(
                {
                    "inputs": (TensorSpec("IN", DataType.FP32, (-1,)),),
                    "outputs": (TensorSpec("OUT", DataType.FP32, (-1,)),),
                    "max_batch_size": 8,
                }
                | spec
            ),
        )
        directory = self.root / name
        context = ModelContext(
            directory, directory / "1", self.config(name, config), whole, ModelStatistics(), door or self.door
        )
        return self.backend.load(context)

    def instance(self, version: Any, name: str, device: str = "cpu") -> Any:
        made = version.instance(Placement(name, device, InstanceGroup()))
        self._instances.append(made)
        return made

    def load(self, name: str, code: str, files: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Write a model and make its one instance."""
        self.write(name, code, files)
        return self.instance(self.version(name, **more), f"{name}_0")

    def model(self, name: str, body: str, files: Mapping[str, str] | None = None, **more: Any) -> Any:
        """As `load`, from the body of execute."""
        code = "class TritonPythonModel:\n    def execute(self, requests):\n" + _indented(body, 8)
        return self.load(name, code, files, **more)

    def decoupled(self, name: str, body: str, **more: Any) -> Any:
        """As `model`, decoupled; the body is run for each `request`, with its `sender` and `say(*values)`."""
        head = """
            def say(*values):
                return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array(values, np.float32))])
            FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            class TritonPythonModel:
                def execute(self, requests):
                    for request in requests:
                        sender = request.get_response_sender()
            """
        return self.load(name, dedent(head) + _indented(body, 12), decoupled=True, **more)

    def close(self, instance: ModelInstance) -> None:
        self._instances.remove(instance)
        instance.close()

    def close_all(self) -> None:
        for instance in self._instances:
            instance.close()


def _indented(body: str, by: int) -> str:
    return "".join(" " * by + line + "\n" for line in dedent(body).strip("\n").splitlines())


def strings(values: Sequence[Any]) -> Any:
    array = np.empty(len(values), np.object_)
    array[:] = list(values)
    return array


__all__ = ["HEAD", "Door", "House", "Sink", "X", "ask", "execute", "request_of", "strings", "value_of"]
