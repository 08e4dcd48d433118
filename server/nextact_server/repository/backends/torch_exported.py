"""torch.export models: `model.pt2`."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from nextact_server.inference.infer_errors import internal, invalid_argument
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.tensors import DataType
from nextact_server.repository.backends.pytorch_names import all_input_names, input_positions
from nextact_server.repository.backends.pytorch_tensors import TorchValue, datatype_of_torch
from nextact_server.repository.backends.tensor_io import TensorIO

__all__ = ["ExportedModel", "load_exported", "signature"]

VARIABLE = -1
_UNBOUNDED = 1 << 30


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One value that the program takes: its name, the graph's placeholder, and its value where it is a constant."""

    name: str
    placeholder: str
    is_constant: bool
    constant: Any


def load_exported(path: Path, name: str, device: str | None) -> torch.export.ExportedProgram:
    """The program of a file, on a device; None: on those it was exported for.

    Like TorchScript it is code, which the repository is trusted to hold.

    Raises:
        InferError: the file is no torch.export archive, or torch cannot read it.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not a ZIP archive")
        program = torch.export.load(path)
        return program if device is None else move_to_device_pass(program, device)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise internal(f"failed to load model '{name}': {path} is no torch.export model: {reason}") from error


def signature(program: torch.export.ExportedProgram, name: str) -> tuple[list[TensorIO], list[TensorIO]]:
    """The inputs by their own names, and the outputs as OUTPUT__0, ... or by their keys where it returns a dict.

    Raises:
        InferError: a tensor has a datatype that the protocol lacks.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [
        _tensor_io(program, name, leaf.name, values[leaf.placeholder])
        for leaf in _leaves(program)
        if not leaf.is_constant
    ]
    keys = _output_keys(program)
    outputs = [
        _tensor_io(program, name, keys[index] or f"OUTPUT__{index}", values.get(str(output)))
        for index, output in enumerate(program.graph_signature.user_outputs)
    ]
    return inputs, outputs


class ExportedModel:
    """An exported program that is called with tensors by the names of its configuration."""

    def __init__(self, program: torch.export.ExportedProgram, spec: ModelSpec) -> None:
        self._module = program.module()
        self._in_spec = program.call_spec.in_spec
        self._leaves = _leaves(program)
        tensors = [index for index, leaf in enumerate(self._leaves) if not leaf.is_constant]
        names = all_input_names(spec)
        if len(names) != len(tensors):
            raise invalid_argument(
                f"unable to load model '{spec.name}', configuration expects {len(names)} inputs, model provides "
                f"{len(tensors)}"
            )
        positions = input_positions(names, [self._leaves[index].name for index in tensors])
        if sorted(positions.values()) != list(range(len(tensors))):
            raise invalid_argument(
                f"unable to load model '{spec.name}', its inputs {', '.join(names)} are not the arguments "
                f"{', '.join(self._leaves[index].name for index in tensors)}"
            )
        self._positions = {name: tensors[position] for name, position in positions.items()}
        written = _written(program)
        self.mutated = frozenset(
            name for name, index in self._positions.items() if self._leaves[index].placeholder in written
        )

    def __call__(self, inputs: Mapping[str, TorchValue]) -> Any:
        """What the program returns."""
        flat = [leaf.constant for leaf in self._leaves]
        for name, value in inputs.items():
            flat[self._positions[name]] = value
        arguments, named = pytree.tree_unflatten(flat, self._in_spec)
        return self._module(*arguments, **named)


def _leaves(program: torch.export.ExportedProgram) -> list[_Leaf]:
    """The values it takes in the order of its graph, named as the caller of forward would name them."""
    taken = [one.arg for one in program.graph_signature.input_specs if one.kind.name == "USER_INPUT"]
    tree = pytree.tree_unflatten(list(range(len(taken))), program.call_spec.in_spec)
    called = program.module_call_graph[0].signature
    argument_names = list(called.forward_arg_names or ()) if called is not None else []
    leaves = []
    for (path, _), argument in zip(pytree.tree_leaves_with_path(tree), taken, strict=True):
        last = path[-1]
        name = argument.name
        if isinstance(last, pytree.MappingKey):
            name = str(last.key)
        elif len(path) == 2 and isinstance(last, pytree.SequenceKey) and last.idx < len(argument_names):
            name = argument_names[last.idx]
        is_constant = not isinstance(argument, torch.export.graph_signature.TensorArgument)
        leaves.append(_Leaf(name, argument.name, is_constant, getattr(argument, "value", None)))
    return leaves


def _output_keys(program: torch.export.ExportedProgram) -> list[str]:
    count = len(program.graph_signature.user_outputs)
    tree = pytree.tree_unflatten(list(range(count)), program.call_spec.out_spec)
    paths = [path for path, _ in pytree.tree_leaves_with_path(tree)]
    if paths and all(len(path) == 1 and isinstance(path[0], pytree.MappingKey) for path in paths):
        return [str(path[0].key) for path in paths]  # type: ignore[attr-defined]
    return [""] * count


def _tensor_io(program: torch.export.ExportedProgram, model: str, name: str, value: object) -> TensorIO:
    datatype: DataType | None = datatype_of_torch(value.dtype) if isinstance(value, torch.Tensor) else None
    if datatype is None or not isinstance(value, torch.Tensor):
        raise internal(f"unsupported datatype {getattr(value, 'dtype', value)} for '{name}' for model '{model}'")
    # A variable size is a SymInt there, whatever the type of `shape` says.
    sizes: list[Any] = list(value.shape)
    shape = tuple(VARIABLE if isinstance(size, torch.SymInt) else int(size) for size in sizes)
    return TensorIO(name, datatype, shape, _most(program, value))


def _most(program: torch.export.ExportedProgram, value: torch.Tensor) -> int:
    """The bound that the program sets for its first axis: 0 for none."""
    first: Any = value.shape[0] if value.ndim else None
    if not isinstance(first, torch.SymInt):
        return 0
    bounds = program.range_constraints.get(first.node.expr)
    if bounds is None or not bounds.upper.is_Integer or int(bounds.upper) > _UNBOUNDED:
        return 0
    return int(bounds.upper)


def _written(program: torch.export.ExportedProgram) -> set[str]:
    """Placeholders of the inputs that the program writes to, itself or through a view."""
    found = set(program.graph_signature.user_inputs_to_mutate.values())
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        for argument, given in zip(schema.arguments, node.args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, torch.fx.Node):
                found.add(_root(given).name)
    return found


def _root(node: torch.fx.Node) -> torch.fx.Node:
    """The tensor whose memory this one may be."""
    while True:
        schema = getattr(node.target, "_schema", None)
        is_view = schema is not None and any(one.alias_info is not None for one in schema.returns)
        if not is_view or not node.args or not isinstance(node.args[0], torch.fx.Node):
            return node
        node = node.args[0]
