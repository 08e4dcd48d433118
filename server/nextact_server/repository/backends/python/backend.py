"""The backend `python`: completes configurations from model.py, and loads its versions."""

import logging
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from nextact_server.inference.infer_errors import ErrorCode, InferError, internal
from nextact_server.inference.infer_spec import ModelSpec, Placement
from nextact_server.inference.instance import ModelInstance, Scheduler
from nextact_server.repository.backend import LoadedVersion, ModelContext
from nextact_server.repository.backends.python.config_json import config_json, take_back
from nextact_server.repository.backends.python.context import InstanceContext, running
from nextact_server.repository.backends.python.errors import describe
from nextact_server.repository.backends.python.instance import PythonInstance
from nextact_server.repository.backends.python.metrics import MetricTable
from nextact_server.repository.backends.python.model_config import ModelConfig as CompletedConfig
from nextact_server.repository.backends.python.module_loading import ModelCode
from nextact_server.repository.backends.python.utils_module import utils_module
from nextact_server.repository.config import ModelConfig, parameter

__all__ = ["PythonBackend"]

logger = logging.getLogger(__name__)

MODEL_FILE = "model.py"
MODEL_CLASS = "TritonPythonModel"
ENVIRONMENT = "EXECUTION_ENV_PATH"
CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"


class PythonBackend:
    """Implements `Backend`. `registry` shows the metrics that models keep; None: nobody sees them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._metrics = MetricTable(registry)

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:
        """The configuration as the model's auto_complete_config leaves it; unchanged where it has none.

        Raises:
            InferError: there is no model.py, or it raised, in Triton's words.
        """
        completed = type(config)()
        completed.CopyFrom(config)
        # Triton runs this in a process that knows no instance, and calls it by the model's name.
        spec = ModelSpec(config.name, int(version_dir.name), config.platform, (), ())
        context = InstanceContext(config.name, spec, version_dir, None, self._metrics)
        code = _code(config, version_dir.parent, version_dir, context)
        entered = running.set(context)
        try:
            complete = getattr(_class_of(code, version_dir), "auto_complete_config", None)
            if complete is not None:
                made = complete(CompletedConfig(config_json(config)))
                if not isinstance(made, CompletedConfig):
                    raise internal(
                        f"auto_complete_config function in model '{config.name}' must return a valid pb.ModelConfig "
                        "object."
                    )
                take_back(completed, made.as_dict())
        except InferError:
            raise
        except BaseException as error:
            raise internal(describe(error)) from error
        finally:
            running.reset(entered)
            code.close()
        return completed

    def load(self, context: ModelContext) -> LoadedVersion:
        """Load a version; its code runs with its first instance.

        Raises:
            InferError: there is no model.py, or a parameter has a value that means nothing.
        """
        _model_file(context.config, context.version_dir)
        _check_parameters(context.config)
        return PythonVersion(context, self._metrics)


class PythonVersion:
    """Implements `LoadedVersion`. Instances share nothing but the process, as in Triton they do not share even that."""

    def __init__(self, context: ModelContext, metrics: MetricTable) -> None:
        self._context = context
        self._metrics = metrics

    def instance(self, placement: Placement) -> ModelInstance:
        """Run model.py and initialize its TritonPythonModel.

        Raises:
            InferError: INTERNAL, with what the model raised as Triton reports it.
        """
        loaded = self._context
        version_dir = loaded.version_dir
        context = InstanceContext(placement.name, loaded.spec, version_dir, loaded.models, self._metrics)
        code = _code(loaded.config, loaded.model_dir, version_dir, context)
        entered = running.set(context)
        try:
            model = _class_of(code, version_dir)()
            if hasattr(model, "initialize"):
                model.initialize(self._arguments(placement))
        except BaseException as error:
            code.close()
            if isinstance(error, InferError):
                raise
            raise internal(describe(error)) from error
        finally:
            running.reset(entered)
        return PythonInstance(context, code, model, code.utils.InferenceRequest)

    def scheduler(self) -> Scheduler | None:
        """None: as its configuration says."""
        return None

    def close(self) -> None:
        """Nothing is left after its instances."""

    def _arguments(self, placement: Placement) -> dict[str, str]:
        spec = self._context.spec
        device, _, number = placement.device.partition(":")
        kind = "MODEL" if placement.group.kind == "KIND_MODEL" else "GPU" if device == "cuda" else "CPU"
        return {
            "model_config": config_json(self._context.config),
            "model_instance_kind": kind,
            "model_instance_name": placement.name,
            "model_instance_device_id": number or "0",
            "model_repository": str(self._context.model_dir),
            "model_version": str(spec.version),
            "model_name": spec.name,
        }


def _code(config: ModelConfig, model_dir: Path, version_dir: Path, context: InstanceContext) -> ModelCode:
    file = _model_file(config, version_dir)
    return ModelCode(file, (version_dir, model_dir), utils_module(context))


def _class_of(code: ModelCode, version_dir: Path) -> Any:
    module = code.load()
    found = getattr(module, MODEL_CLASS, None)
    if found is None:
        raise AttributeError(f"module '{version_dir.name}.{code.file.stem}' has no attribute '{MODEL_CLASS}'")
    return found


def _model_file(config: ModelConfig, version_dir: Path) -> Path:
    name = config.default_model_filename or MODEL_FILE
    if not name.endswith(".py"):
        raise internal(f"Model name must end with '.py'. Model name is \"{name}\".")
    file = version_dir / name
    if not file.is_file():
        raise internal(f"Python model file not found in '{file}'")
    return file


def _check_parameters(config: ModelConfig) -> None:
    environment = parameter(config, ENVIRONMENT, "")
    if environment:
        logger.warning(
            "model %s asks for the environment %s: %s is not supported, it runs in the server's own",
            config.name,
            environment,
            ENVIRONMENT,
        )
    cpu_only = parameter(config, CPU_ONLY, "yes").lower()
    if cpu_only not in ("yes", "no"):
        raise InferError(ErrorCode.UNSUPPORTED, f"Incorrect value for {CPU_ONLY}: {cpu_only}'")
