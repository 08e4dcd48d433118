"""What one instance of a model is to the functions that its code calls, on whichever thread."""

from contextvars import ContextVar
from pathlib import Path

from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching
from nextact_server.inference.instance import ModelDoor
from nextact_server.repository.backends.python.errors import TritonModelException
from nextact_server.repository.backends.python.metrics import MetricTable
from nextact_server.repository.backends.python.responses import OutputNames

__all__ = ["InstanceContext", "current", "running"]


class InstanceContext:
    """One instance.

    Attributes:
        name: the instance's, `<group>_<i>`.
        model_dir: the directory of its version, as `pb_utils.get_model_dir` calls it.
        names: which tensors go into its answers.
        is_alone: it is the only instance of its version.
        may_call: whether it may ask other models: between initialize and finalize, as in Triton.
        thread: the ident of the thread that waits for its execute; 0: none.
    """

    __slots__ = ("is_alone", "may_call", "metrics", "model_dir", "models", "name", "names", "spec", "thread")

    def __init__(
        self, name: str, spec: ModelSpec, model_dir: Path, models: ModelDoor | None, metrics: MetricTable
    ) -> None:
        self.name = name
        self.spec = spec
        self.model_dir = model_dir
        self.models = models
        self.metrics = metrics
        states = spec.schedule.states if isinstance(spec.schedule, SequenceBatching) else ()
        self.names = OutputNames([output.name for output in spec.outputs], [state.output_name for state in states])
        groups = spec.instance_groups
        self.is_alone = sum([group.count * max(len(group.gpus), 1) for group in groups]) == 1
        self.may_call = False
        self.thread = 0

    def door(self) -> ModelDoor:
        """The other models, to be asked. Raises TritonModelException where this one may not ask them."""
        if not self.may_call:
            raise TritonModelException("BLS is only supported during the 'execute' function.")
        return self.server()

    def server(self) -> ModelDoor:
        """The other models. Raises TritonModelException in auto_complete_config, before there is a server."""
        if self.models is None:
            raise TritonModelException("other models are not there while a configuration is completed")
        return self.models

    def failed(self, what: str, reason: object) -> TritonModelException:
        """The error for a request to the server that failed, in Triton's words."""
        return TritonModelException(f"{what}: Failed to process the request for model '{self.name}', message: {reason}")


running: ContextVar[InstanceContext | None] = ContextVar("running", default=None)
"""The instance whose code runs here, for libraries that share one `triton_python_backend_utils`."""


def current() -> InstanceContext:
    """The instance whose code runs here. Raises TritonModelException outside of one."""
    context = running.get()
    if context is None:
        raise TritonModelException("triton_python_backend_utils is used outside of a model")
    return context
