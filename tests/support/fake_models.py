"""Model repositories whose models a fake backend runs: a version is a file that says what the model answers."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import Placement
from nextact_server.inference.instance import Result, Scheduler, StageTimes
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.options import ControlMode, RegistryOptions
from nextact_server.repository.registry import ModelRegistry

WAIT_S = 20.0
IO = """
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
ensemble_scheduling { step [ {
  model_name: "MEMBER" model_version: -1
  input_map { key: "IN" value: "IN" } output_map { key: "OUT" value: "OUT" }
} ] }
"""


def config_text(body: str = "", *, max_batch_size: int = 4, backend: str = "fake", io: str = IO) -> str:
    """A config.pbtxt without a name."""
    return f'backend: "{backend}"\nmax_batch_size: {max_batch_size}\n{io}{body}\n'


def ensemble_text(member: str, io: str = IO, **changes: str) -> str:
    """The config.pbtxt of an ensemble of one step."""
    text = io + ENSEMBLE.replace("MEMBER", member)
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def write_model(root: Path, name: str, config: str | None = None, **versions: object) -> Path:
    """Write a model; `v1=5` is a version 1 that answers 5, `v2="broken"` one that does not load. Returns its folder."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    for version, content in (versions or {"v1": 1}).items():
        (folder / version[1:]).mkdir(exist_ok=True)
        (folder / version[1:] / "model.fake").write_text(str(content))
    return folder


class FakeInstance:
    """Answers its value plus its input; `FakeBackend.execute` may stand in front."""

    retry_safe = False

    def __init__(self, version: "FakeVersion", placement: Placement) -> None:
        self.version = version
        self.placement = placement
        self.is_closed = False

    def execute(self, requests: Sequence[InferRequest], times: StageTimes) -> Sequence[Result]:
        """Run."""
        assert not self.is_closed, "an instance ran after it was closed"
        self.version.backend.executed(self, requests)
        value = self.version.value
        return [InferResponse({"OUT": np.full_like(request.inputs["IN"], value)}) for request in requests]

    def close(self) -> None:
        """Note it."""
        assert not self.is_closed
        self.is_closed = True


class FakeVersion:
    """A loaded version; refuses to be closed before its instances."""

    def __init__(self, backend: "FakeBackend", context: ModelContext, value: float) -> None:
        self.backend = backend
        self.context = context
        self.value = value
        self.instances: list[FakeInstance] = []
        self.closed = threading.Event()

    def instance(self, placement: Placement) -> FakeInstance:
        """Make one."""
        self.instances.append(FakeInstance(self, placement))
        return self.instances[-1]

    def scheduler(self) -> Scheduler | None:
        """By the config."""
        return None

    def close(self) -> None:
        """Note it."""
        assert all(instance.is_closed for instance in self.instances)
        assert not self.closed.is_set()
        self.closed.set()


class FakeBackend:
    """Loads what `write_model` wrote. `loading` and `executed` are hooks of the tests."""

    def __init__(self) -> None:
        self.versions: list[FakeVersion] = []
        self.loading: Callable[[ModelContext], None] = lambda context: None
        self.executed: Callable[[FakeInstance, Sequence[InferRequest]], None] = lambda instance, requests: None

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:
        """Fill in IN and OUT."""
        if not config.input:
            config.input.add(name="IN", data_type="TYPE_FP32", dims=[1])
        if not config.output:
            config.output.add(name="OUT", data_type="TYPE_FP32", dims=[1])
        return config

    def load(self, context: ModelContext) -> FakeVersion:
        """Load."""
        self.loading(context)
        content = (context.version_dir / "model.fake").read_text()
        if not content:
            raise ValueError("the file is cut off")
        version = FakeVersion(self, context, float(content))
        self.versions.append(version)
        return version

    def loads(self, name: str) -> list[int]:
        """The versions of a model that were loaded, in order."""
        return [version.context.spec.version for version in self.versions if version.context.spec.name == name]


class Answer:
    """A sink that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.responses: list[Result] = []
        self._final = threading.Event()

    def respond(self, request: InferRequest, response: Result, final: bool) -> None:
        """Take a response."""
        self.responses.append(response)
        if final:
            self._final.set()

    @property
    def is_done(self) -> bool:
        """Whether the last response came."""
        return self._final.is_set()

    def value(self) -> float:
        """The number that was answered. Raises the InferError that was instead."""
        assert self._final.wait(WAIT_S), "no answer came"
        [response] = self.responses
        if isinstance(response, InferError):
            raise response
        assert response is not None
        return float(response.outputs["OUT"].reshape(-1)[0])


def ask(registry: ModelRegistry, name: str, version: str = "") -> Answer:
    """Send one row to a model; the answer comes when it likes."""
    answer = Answer()
    registry.infer(name, version, InferRequest({"IN": np.zeros((1, 1), np.float32)}, answer))
    return answer


def make_registry(root: Path, backend: FakeBackend, mode: str = "explicit", **options: Any) -> ModelRegistry:
    """A registry that is not started; the rest of `options` goes to RegistryOptions or the registry itself."""
    own = {key: options.pop(key) for key in ("listener", "limiter", "cache", "poll_wait") if key in options}
    told = RegistryOptions(control_mode=ControlMode(mode), **options)
    return ModelRegistry(root, {"fake": backend}, told, **own)


def states(registry: ModelRegistry, name: str) -> dict[str, str]:
    """The states of a model's versions in the index."""
    return {line.version: line.state for line in registry.index() if line.name == name}


def reason(registry: ModelRegistry, name: str, version: str) -> str:
    """Why a version is in its state."""
    [line] = [line for line in registry.index() if (line.name, line.version) == (name, version)]
    return line.reason
