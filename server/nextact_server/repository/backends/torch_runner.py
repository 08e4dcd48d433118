"""A torch model on one device: arrays in, arrays out."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Protocol

import torch

from nextact_server.inference.infer_errors import InferError, internal, invalid_argument
from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching
from nextact_server.inference.tensors import Tensor
from nextact_server.repository.backends.pytorch_names import output_positions
from nextact_server.repository.backends.pytorch_options import TorchOptions
from nextact_server.repository.backends.pytorch_tensors import TorchValue, from_torch, to_torch

__all__ = ["TorchModel", "TorchRunner"]


class TorchModel(Protocol):
    """A loaded model; `mutated` are the inputs that it writes to, of which it must get copies."""

    @property
    def mutated(self) -> frozenset[str]:
        """Names of the inputs that it writes to."""

    def __call__(self, inputs: Mapping[str, TorchValue]) -> Any:
        """Whatever its forward returns."""


class TorchRunner:
    """Runs a model without gradients. On CUDA on a stream of its own, through pinned buffers that grow with use.

    On the CPU a model reads the caller's memory. torch's thread count is the server's and never touched.
    """

    def __init__(self, model: TorchModel, spec: ModelSpec, options: TorchOptions, device: str) -> None:
        self._model = model
        self._options = options
        self._device = torch.device(device)
        states = spec.schedule.states if isinstance(spec.schedule, SequenceBatching) else ()
        names = [tensor.name for tensor in spec.outputs]
        self._positions = output_positions(names)
        self._positions |= output_positions([state.output_name for state in states])
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._staging: dict[str, torch.Tensor] = {}

    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute one batch.

        Raises:
            InferError: INTERNAL for what torch raises; INVALID_ARG for a configured output that the model lacks.
        """
        no_gradients: Callable[[], AbstractContextManager[Any]] = (
            torch.inference_mode if self._options.inference_mode else torch.no_grad
        )
        try:
            with no_gradients():
                if self._stream is None:
                    return self._on_cpu(inputs)
                return self._on_cuda(inputs, self._stream)
        except InferError:
            raise
        except Exception as error:
            raise internal(f"PyTorch execute failure: {error}") from error

    def close(self) -> None:
        """Free the staging buffers; the model is freed with its last runner."""
        self._staging.clear()
        if self._stream is not None:
            torch.cuda.empty_cache()

    def _on_cpu(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        mutated = self._model.mutated
        tensors = {name: to_torch(array.copy() if name in mutated else array) for name, array in inputs.items()}
        named = self._named(self._model(tensors))
        return {name: self._array(name, value) for name, value in named.items()}

    def _on_cuda(self, inputs: dict[str, Tensor], stream: torch.cuda.Stream) -> dict[str, Tensor]:
        with ExitStack() as stack:
            stack.enter_context(torch.cuda.stream(stream))
            stack.enter_context(nullcontext() if self._options.cudnn else torch.backends.cudnn.flags(enabled=False))
            tensors = {name: self._moved(name, array) for name, array in inputs.items()}
            named = {
                name: value.detach().to("cpu", non_blocking=True) if isinstance(value, torch.Tensor) else value
                for name, value in self._named(self._model(tensors)).items()
            }
        # Also what makes the staging buffers free for the next batch.
        stream.synchronize()
        if self._options.clean_cache:
            torch.cuda.empty_cache()
        return {name: self._array(name, value) for name, value in named.items()}

    def _moved(self, name: str, array: Tensor) -> TorchValue:
        value = to_torch(array)
        if not isinstance(value, torch.Tensor):
            return value
        held = self._staging.get(name)
        if held is None or held.numel() < value.numel() or held.dtype != value.dtype:
            held = torch.empty(value.numel(), dtype=value.dtype, pin_memory=True)
            self._staging[name] = held
        pinned = held[: value.numel()].view(value.shape)
        pinned.copy_(value)
        return pinned.to(self._device, non_blocking=True)

    def _named(self, results: Any) -> dict[str, TorchValue]:
        """The configured outputs of what forward returned: a tensor, several, or a dict by name."""
        if isinstance(results, dict):
            missing = [name for name in self._positions if name not in results]
            if missing:
                raise invalid_argument(
                    f"The output {missing[0]} in the model configuration is no key of what the model returns: "
                    f"{', '.join(map(str, results))}"
                )
            return {name: results[name] for name in self._positions}
        if isinstance(results, torch.Tensor) or _is_texts(results):
            results = (results,)
        if not isinstance(results, tuple | list):
            raise internal(
                "output must be of type Tensor, List[str] or Tuple containing one of these two types. It should not be "
                "a Scalar"
            )
        named = {}
        for name, position in self._positions.items():
            if position >= len(results):
                raise invalid_argument(
                    f"The output {name} in the model configuration refers to an output index which doesn't exist. "
                    f"This model has {len(results)} outputs"
                )
            named[name] = results[position]
        return named

    @staticmethod
    def _array(name: str, value: TorchValue) -> Tensor:
        try:
            return from_torch(value)
        except TypeError as error:
            raise invalid_argument(f"output '{name}' {error}") from None


def _is_texts(results: object) -> bool:
    return isinstance(results, list) and bool(results) and all(isinstance(text, str) for text in results)
