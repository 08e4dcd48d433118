"""Loads one model of a tensor backend as the repository would, and runs requests on an instance of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import InstanceGroup, ModelSpec, Placement, TensorSpec
from nextact_server.inference.instance import ModelInstance, StageTimes
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType, Tensor
from nextact_server.repository.backend import Backend, LoadedVersion, ModelContext

CPU = Placement("m_0_0", "cpu", InstanceGroup())


class NoSink:
    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        raise AssertionError("an instance that gives results does not respond itself")


def config_of(text: str = "") -> Any:
    return text_format.Parse(f'name: "m" {text}', model_config_pb2.ModelConfig())


def spec_of(config: Any, **more: Any) -> ModelSpec:
    return ModelSpec(
        config.name,
        1,
        "",
        tuple(map(_tensor, config.input)),
        tuple(map(_tensor, config.output)),
        max_batch_size=config.max_batch_size,
        **more,
    )


def loaded(backend: Backend, version_dir: Path, text: str = "", **more: Any) -> LoadedVersion:
    """Complete and load; `more` are fields of the spec that the text of the configuration does not set here."""
    config = backend.complete(config_of(text), version_dir)
    models: Any = None
    context = ModelContext(version_dir.parent, version_dir, config, spec_of(config, **more), ModelStatistics(), models)
    return backend.load(context)


def instance_of(backend: Backend, version_dir: Path, text: str = "", **more: Any) -> ModelInstance:
    return loaded(backend, version_dir, text, **more).instance(CPU)


def request(batch_size: int = 1, output_names: Sequence[str] = (), **inputs: Tensor) -> InferRequest:
    return InferRequest(inputs, NoSink(), batch_size=batch_size, output_names=output_names)


def rows(**inputs: Tensor) -> InferRequest:
    return request(next(iter(inputs.values())).shape[0], **inputs)


def run(instance: ModelInstance, *requests: InferRequest) -> list[dict[str, Tensor]]:
    found = []
    for result in instance.execute(requests, StageTimes()):
        if isinstance(result, InferError):
            raise result
        assert result is not None
        found.append(result.outputs)
    return found


def floats(*shape: int, seed: int = 0) -> Tensor:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _tensor(tensor: Any) -> TensorSpec:
    datatype = DataType.from_config(model_config_pb2.DataType.Name(tensor.data_type))
    reshape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None
    return TensorSpec(tensor.name, datatype, tuple(tensor.dims), reshape, getattr(tensor, "optional", False))
