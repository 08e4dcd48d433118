"""How a configuration's tensor names find a torch model's arguments and results: Triton's conventions.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md, "Special conventions
for PyTorch backend".
"""

import re
from collections.abc import Sequence

from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching

__all__ = ["all_input_names", "input_positions", "output_positions"]

_INDEXED = re.compile(r"__(\d+)$")


def all_input_names(spec: ModelSpec) -> list[str]:
    """Everything the model is given: its inputs, then sequence controls, implicit states and batch inputs."""
    names = [tensor.name for tensor in spec.inputs]
    if isinstance(spec.schedule, SequenceBatching):
        names += [control.name for control in spec.schedule.controls]
        names += [state.input_name for state in spec.schedule.states]
    return names + [name for batch_input in spec.batch_inputs for name in batch_input.names]


def input_positions(names: Sequence[str], arguments: Sequence[str]) -> dict[str, int]:
    """Which argument each input is: by the argument's own name, else by `<name>__<index>`, else by the order."""
    if all(name in arguments for name in names):
        return {name: list(arguments).index(name) for name in names}
    return output_positions(names)


def output_positions(names: Sequence[str]) -> dict[str, int]:
    """Which result each output is: by `<name>__<index>` if all names are such, else by the order."""
    indices = [_INDEXED.search(name) for name in names]
    if all(indices):
        return {name: int(found[1]) for name, found in zip(names, indices, strict=True) if found}
    return {name: position for position, name in enumerate(names)}
