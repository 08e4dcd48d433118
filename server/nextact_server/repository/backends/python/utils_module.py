"""The `triton_python_backend_utils` that models import: a module object for each instance.

It is never put under that name into `sys.modules` by the server itself; see `module_loading`.
"""

from types import ModuleType

from nextact_server.inference.infer_errors import InferError
from nextact_server.repository.backends.python import lookups
from nextact_server.repository.backends.python.context import InstanceContext, current
from nextact_server.repository.backends.python.errors import TritonError, TritonModelException, incompatible
from nextact_server.repository.backends.python.logger import Logger
from nextact_server.repository.backends.python.metric_family import Metric, MetricFamily
from nextact_server.repository.backends.python.model_config import ModelConfig
from nextact_server.repository.backends.python.requests import (
    RELEASE_ALL,
    RELEASE_RESCHEDULE,
    SEQUENCE_END,
    SEQUENCE_START,
    InferenceRequest,
    InferenceTrace,
    MemoryType,
    PreferredMemory,
    get_input_tensor_by_name,
)
from nextact_server.repository.backends.python.response_sender import COMPLETE_FINAL, ResponseSender
from nextact_server.repository.backends.python.responses import InferenceResponse
from nextact_server.repository.backends.python.tensors import Tensor
from nextact_server.repository.errors import RepositoryError

__all__ = ["utils_module"]

_PLAIN = {
    "InferenceResponse": InferenceResponse,
    "InferenceResponseSender": ResponseSender,
    "InferenceTrace": InferenceTrace,
    "Metric": Metric,
    "ModelConfig": ModelConfig,
    "PreferredMemory": PreferredMemory,
    "TRITONSERVER_MEMORY_CPU": MemoryType.TRITONSERVER_MEMORY_CPU,
    "TRITONSERVER_MEMORY_GPU": MemoryType.TRITONSERVER_MEMORY_GPU,
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END": SEQUENCE_END,
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START": SEQUENCE_START,
    "TRITONSERVER_REQUEST_RELEASE_ALL": RELEASE_ALL,
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE": RELEASE_RESCHEDULE,
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL": COMPLETE_FINAL,
    "Tensor": Tensor,
    "TritonError": TritonError,
    "TritonModelException": TritonModelException,
    "get_input_tensor_by_name": get_input_tensor_by_name,
    **{name: getattr(lookups, name) for name in lookups.__all__},
}


def utils_module(context: InstanceContext | None, name: str = "triton_python_backend_utils") -> ModuleType:
    """The module of an instance; None: one that finds the instance by the thread, for installed libraries."""
    module = ModuleType(name, "What models of the python backend import.")
    bound = {"__slots__": (), "_context": context, "__module__": "c_python_backend_utils"}
    vars(module).update(_PLAIN)
    vars(module).update(
        InferenceRequest=type("InferenceRequest", (InferenceRequest,), dict(bound)),
        Logger=type("Logger", (Logger,), dict(bound)),
        MetricFamily=type("MetricFamily", (MetricFamily,), dict(bound)),
    )
    vars(module).update(_ServerFunctions(context).functions())
    return module


class _ServerFunctions:
    """What a model asks of the server beside inference."""

    def __init__(self, context: InstanceContext | None) -> None:
        self._context = context

    def functions(self) -> dict[str, object]:
        """By the names that models call them by."""
        return {
            "get_model_dir": self.get_model_dir,
            "is_model_ready": self.is_model_ready,
            "load_model": self.load_model,
            "unload_model": self.unload_model,
        }

    def get_model_dir(self) -> str:
        """The directory of the model's version."""
        return str(self._asked_by().model_dir)

    def is_model_ready(self, model_name: object, model_version: object = "") -> bool:
        """Whether that model, or that version of it, can be asked now."""
        if not isinstance(model_name, str) or not isinstance(model_version, str):
            signature = "(model_name: str, model_version: str = '') -> bool"
            raise incompatible(signature, model_name, model_version, function="is_model_ready")
        context = self._asked_by()
        try:
            return context.server().is_ready(model_name, model_version)
        except InferError as error:
            raise context.failed("Failed to check model readiness", error) from error

    def load_model(self, model_name: object, config: object = "", files: object = None) -> None:
        """Load or reload a model, with a configuration (JSON) and files of one's own where they are given."""
        if not isinstance(model_name, str) or not isinstance(config, str):
            signature = "(model_name: str, config: str = '', files: object = None) -> None"
            raise incompatible(signature, model_name, config, files, function="load_model")
        if files is not None and not isinstance(files, dict):
            raise TritonModelException(
                f"failed to load model '{model_name}', files should be a dictionary of file paths and file contents"
            )
        context = self._asked_by()
        try:
            context.server().load(model_name, config or None, files)
        except (InferError, RepositoryError) as error:
            raise context.failed("Failed to load model", error) from error

    def unload_model(self, model_name: object, unload_dependents: bool = False) -> None:
        """Unload a model."""
        if not isinstance(model_name, str):
            signature = "(model_name: str, unload_dependents: bool = False) -> None"
            raise incompatible(signature, model_name, unload_dependents, function="unload_model")
        context = self._asked_by()
        try:
            context.server().unload(model_name, unload_dependents=unload_dependents)
        except (InferError, RepositoryError) as error:
            raise context.failed("Failed to unload model", error) from error

    def _asked_by(self) -> InstanceContext:
        return self._context or current()
