"""The seams between schedulers, models and those who ask: what an instance, a scheduler and the door to models are."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec

__all__ = ["ModelDoor", "ModelInstance", "Result", "Scheduler", "StageTimes"]

Result = InferResponse | InferError | None
"""What a run gives per request; None: the instance answers it itself, through `request.respond`, to the final one."""


class StageTimes:
    """Nanoseconds a run spent on gathering inputs, in the model and on scattering outputs; instances add to it."""

    __slots__ = ("infer_ns", "input_ns", "output_ns")

    def __init__(self) -> None:
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0

    def add(self, other: "StageTimes") -> None:
        """Add the times of another run."""
        self.input_ns += other.input_ns
        self.infer_ns += other.infer_ns
        self.output_ns += other.output_ns


class ModelInstance(Protocol):
    """One copy of a model on one device. `execute` is called by one thread at a time."""

    @property
    def retry_safe(self) -> bool:
        """Whether a batch that raised may be run again by halves, to find the request that is to blame."""

    def execute(self, requests: Sequence[InferRequest], times: StageTimes) -> Sequence[Result]:
        """Run a batch and return a result per request, in order. May raise: then no request got anything."""

    def close(self) -> None:
        """Free it; called once, when nothing runs."""


class Scheduler(Protocol):
    """Takes requests of one model version to its instances."""

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """Take requests that arrived together, in order. Never raises for them: a refusal is that request's response.

        Any thread; returns without waiting for any of them.
        """

    def close(self, *, drain: bool = True) -> None:
        """Take no more, and return when every request taken was answered (without `drain`: what waits, refused)."""


class ModelDoor(Protocol):
    """Other models of this server, for ensembles and for models that call models. Any thread."""

    def infer(self, name: str, version: str, request: InferRequest) -> None:
        """Check the request and submit it; `version` '' is the policy's choice.

        Raises InferError for an unknown or unready model, and for a request that does not fit; then nothing is sent to
        the sink.
        """

    def spec(self, name: str, version: str) -> ModelSpec:
        """What a model takes and gives. Raises InferError as `infer`."""

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether that model can be asked now."""

    def load(self, name: str, config_json: str | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Load or reload a model, waiting for it. Raises InferError with the reason."""

    def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Unload a model. Raises InferError with the reason."""
