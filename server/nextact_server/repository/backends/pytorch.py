"""The `pytorch` backend: TorchScript (`model.pt`) and torch.export (`model.pt2`), in this process.

Both kinds of file are programs that run with the server's rights, as they do in Triton: a model repository is trusted
code. Torch itself is imported with the first model.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextact_server.inference.batched_instance import BatchedInstance
from nextact_server.inference.infer_errors import InferError, internal, invalid_argument, unavailable
from nextact_server.inference.infer_spec import ModelSpec, Placement
from nextact_server.inference.instance import ModelInstance, Scheduler
from nextact_server.inference.tensors import DataType
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.backends.pytorch_options import torch_options
from nextact_server.repository.backends.tensor_io import complete_io
from nextact_server.repository.config import ModelConfig

if TYPE_CHECKING:
    from nextact_server.repository.backends.torch_runner import TorchModel

__all__ = ["PytorchBackend"]

DEFAULT_FILES = ("model.pt", "model.pt2")
ANY_DEVICE = "KIND_MODEL"


class PytorchBackend:
    """See `Backend`. `default_max_batch_size` is for models whose configuration leaves everything out."""

    def __init__(self, default_max_batch_size: int = 4) -> None:
        self._default_max_batch_size = default_max_batch_size

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:
        """Read inputs, outputs and batching from a torch.export file where they are left out.

        Raises:
            InferError: the file cannot be read; or it is TorchScript, which keeps neither shapes nor datatypes, so that
                they must be configured: the message says what its forward takes.
        """
        if config.input and config.output:
            return config
        path = model_file(version_dir, config.name, str(config.default_model_filename))
        if _is_exported(path):
            from nextact_server.repository.backends.torch_exported import load_exported, signature

            inputs, outputs = signature(load_exported(path, config.name, None), config.name)
            return complete_io(config, inputs, outputs, self._default_max_batch_size)
        from nextact_server.repository.backends.torch_script import describe_arguments, load_script

        left_out = " and ".join(field for field in ("input", "output") if not getattr(config, field))
        takes = describe_arguments(load_script(path, config.name, None))
        raise invalid_argument(
            f"model '{config.name}': its config.pbtxt must give {left_out} (name, data_type, dims), because a "
            f"TorchScript file keeps no shapes or datatypes; {path.name} has {takes}"
        )

    def load(self, context: ModelContext) -> "LoadedTorchModel":
        """Read the file once for every device that instances are placed on. Raises InferError with the reason."""
        return LoadedTorchModel(context)


class LoadedTorchModel:
    """A version in memory. Instances on one device share its weights, unless ENABLE_WEIGHT_SHARING is false."""

    def __init__(self, context: ModelContext) -> None:
        self._spec = context.spec
        self._options = torch_options(context.config)
        self._path = model_file(context.version_dir, context.spec.name, str(context.config.default_model_filename))
        _check_texts(context.spec)
        self._models: dict[str | None, TorchModel] = {}
        self._lock = threading.Lock()

    def instance(self, placement: Placement) -> ModelInstance:
        """One instance. Raises InferError where the file is unreadable or is not what the configuration says."""
        from nextact_server.repository.backends.torch_runner import TorchRunner

        device = None if placement.group.kind == ANY_DEVICE else placement.device
        with self._lock:
            model = self._models.get(device)
            if model is None:
                try:
                    model = self._load(device)
                except (InferError, MemoryError):
                    raise
                except Exception as error:
                    raise internal(f"failed to load model '{self._spec.name}': {self._path}: {error}") from error
                if self._options.share_weights:
                    self._models[device] = model
        runner = TorchRunner(model, self._spec, self._options, placement.device)
        return BatchedInstance(self._spec, runner.run, runner.close)

    def scheduler(self) -> Scheduler | None:
        """By the configuration."""
        return None

    def close(self) -> None:
        """Let go of the weights."""
        self._models.clear()

    def _load(self, device: str | None) -> Any:
        if _is_exported(self._path):
            from nextact_server.repository.backends.torch_exported import ExportedModel, load_exported

            return ExportedModel(load_exported(self._path, self._spec.name, device), self._spec)
        from nextact_server.repository.backends.torch_script import ScriptModel, load_script

        return ScriptModel(load_script(self._path, self._spec.name, device), self._spec, self._options)


def model_file(version_dir: Path, model: str, configured: str) -> Path:
    """The file of a version: `default_model_filename`, else the first of `model.pt` and `model.pt2` that is there.

    Raises:
        InferError: UNAVAILABLE, there is none.
    """
    names = (configured,) if configured else DEFAULT_FILES
    for name in names:
        if (version_dir / name).is_file():
            return version_dir / name
    raise unavailable(f"unable to find '{version_dir / names[0]}' for model instance '{model}'")


def _is_exported(path: Path) -> bool:
    return path.suffix == ".pt2"


def _check_texts(spec: ModelSpec) -> None:
    """Torch has no tensors of strings; a BYTES tensor of one axis, the batch axis counted, is a List[str]."""
    for kind, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            axes = len(tensor.dims if tensor.reshape is None else tensor.reshape) + bool(spec.max_batch_size)
            if tensor.datatype is DataType.BYTES and axes > 1:
                raise internal(
                    f"Triton only supports 1 dimensional List of String as {kind} for '{tensor.name}' for model "
                    f"'{spec.name}'"
                )
