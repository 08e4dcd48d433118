"""TorchScript models: `model.pt`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.jit._fuser import optimized_execution

from nextact_server.inference.infer_errors import internal, invalid_argument
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.repository.backends.pytorch_names import all_input_names, input_positions
from nextact_server.repository.backends.pytorch_options import TorchOptions
from nextact_server.repository.backends.pytorch_tensors import TorchValue

__all__ = ["ScriptModel", "describe_arguments", "load_script"]


def load_script(path: Path, name: str, device: str | None) -> Any:
    """The module of a file on a device, in evaluation mode; None: on the devices it was saved from.

    A TorchScript file is a program: it may do whatever its author wrote, so the repository must be trusted.

    Raises:
        InferError: the file is not TorchScript, or torch cannot read it.
    """
    try:
        with warnings.catch_warnings():
            # TorchScript is what `model.pt` holds; that torch would rather have torch.export is no news to an operator.
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return module.eval()
    except Exception as error:
        raise internal(
            f"failed to load model '{name}': {path} is no TorchScript model: {_first_line(error)}"
        ) from error


def describe_arguments(module: Any) -> str:
    """What forward takes and gives, for people."""
    arguments = [f"{argument.name}: {argument.type}" for argument in _arguments(module)]
    returns = ", ".join(str(one.type) for one in module.forward.schema.returns)
    return f"forward({', '.join(arguments)}) -> {returns}"


class ScriptModel:
    """A TorchScript module that is called with tensors by the names of its configuration."""

    def __init__(self, module: Any, spec: ModelSpec, options: TorchOptions) -> None:
        self._module = module
        self._options = options
        names = all_input_names(spec)
        arguments = _arguments(module)
        kinds = [argument.type.kind() for argument in arguments]
        self._takes_dict = kinds == ["DictType"]
        if self._takes_dict:
            self._positions = dict.fromkeys(names, 0)
        else:
            _check_arguments(spec.name, arguments, kinds, names)
            self._positions = input_positions(names, [argument.name for argument in arguments])
        _check_positions(spec.name, self._positions, len(arguments))
        self._count = max(self._positions.values(), default=-1) + 1
        written = _written(module)
        self.mutated = frozenset(name for name, position in self._positions.items() if position in written)

    def __call__(self, inputs: Mapping[str, TorchValue]) -> Any:
        """What forward returns."""
        with optimized_execution(self._options.optimized):
            if self._takes_dict:
                return self._module(dict(inputs))
            arguments: list[TorchValue | None] = [None] * self._count
            for name, value in inputs.items():
                arguments[self._positions[name]] = value
            return self._module(*arguments)


def _arguments(module: Any) -> list[Any]:
    """The arguments of forward without `self`."""
    return [argument for argument in module.forward.schema.arguments if argument.type.kind() != "ClassType"]


def _check_arguments(model: str, arguments: list[Any], kinds: list[str], names: list[str]) -> None:
    if "DictType" in kinds:
        raise internal(
            "Multiple inputs of kind DictType were detected. Only a single input of type Dict(str, Tensor) is "
            "supported."
        )
    for argument, kind in zip(arguments, kinds, strict=True):
        if kind not in ("TensorType", "ListType", "OptionalType") and not argument.has_default_value():
            raise internal(
                f"An input of type '{argument.type}' was detected in the model. Only a single input of type "
                "Dict(str, Tensor) or input(s) of type Tensor are supported."
            )
    needed = sum(not argument.has_default_value() for argument in arguments)
    if not needed <= len(names) <= len(arguments):
        raise invalid_argument(
            f"unable to load model '{model}', configuration expects {len(names)} inputs, model provides "
            f"{len(arguments)}"
        )


def _check_positions(model: str, positions: Mapping[str, int], count: int) -> None:
    for name, position in positions.items():
        if position >= count:
            raise invalid_argument(
                f"unable to load model '{model}', input '{name}' refers to an argument index which doesn't exist. "
                f"This model has {count} inputs"
            )


def _written(module: Any) -> set[int]:
    """Positions of the arguments that forward writes to, itself or through a view."""
    graph = module.inlined_graph
    aliases = graph.alias_db()
    inputs = [value for value in graph.inputs() if value.type().kind() != "ClassType"]
    return {position for position, value in enumerate(inputs) if aliases.has_writers(value)}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
