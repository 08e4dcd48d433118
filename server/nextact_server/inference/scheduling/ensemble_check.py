"""Whether an ensemble and its members fit together, told in Triton's words when it is loaded.

The checks and their order are those of Triton's `ValidateEnsembleConfig`
(https://github.com/triton-inference-server/core/blob/main/src/ensemble_scheduler/ensemble_utils.cc).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nextact_server.inference.infer_errors import InferError, invalid_argument
from nextact_server.inference.infer_spec import EnsembleStep, ModelSpec, TensorSpec
from nextact_server.inference.scheduling.ensemble_plan import steps_of
from nextact_server.inference.tensors import DataType

__all__ = ["check_ensemble", "dims_fit"]

VARIABLE = -1


def dims_fit(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes may be the same, a variable dimension being any."""
    return len(one) == len(other) and all(
        VARIABLE in (left, right) or left == right for left, right in zip(one, other, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Node:
    """What is known of an ensemble tensor, and which model says so."""

    model: str
    datatype: DataType
    dims: tuple[int, ...]
    batches: bool

    @property
    def full(self) -> tuple[int, ...]:
        return (VARIABLE, *self.dims) if self.batches else self.dims


def check_ensemble(spec: ModelSpec, spec_of: Callable[[str, str], ModelSpec]) -> bool:
    """Check an ensemble against its members; whether it gives any number of responses, because one of them does.

    `spec_of` is given a member's name and version, and raises InferError where it cannot be had.

    Raises:
        InferError: INVALID_ARG with what does not fit.
    """
    members = _members(spec, spec_of)
    nodes: dict[str, _Node] = {}
    for tensor in (*spec.inputs, *spec.outputs):
        dims = tensor.dims if tensor.reshape is None else tensor.reshape
        nodes.setdefault(tensor.name, _Node(spec.name, tensor.datatype, dims, spec.max_batch_size > 0))
    for step, member in zip(steps_of(spec), members, strict=True):
        if 0 < member.max_batch_size < spec.max_batch_size:
            raise invalid_argument(
                f"ensemble {spec.name} allows maximum batch size {spec.max_batch_size}, but it contains model "
                f"{member.name} which only allows maximum batch size to be {member.max_batch_size}"
            )
        _check_mapping(spec.name, step, member, nodes)
    return _check_decoupled(spec, members)


def _members(spec: ModelSpec, spec_of: Callable[[str, str], ModelSpec]) -> list[ModelSpec]:
    members: list[ModelSpec] = []
    missing: list[str] = []
    for step in steps_of(spec):
        try:
            members.append(spec_of(step.model, step.version))
        except InferError:
            missing.append(step.model)
    if missing:
        raise invalid_argument(
            f"ensemble {spec.name} contains models that are not available or ambiguous: "
            f"{', '.join(dict.fromkeys(missing))}"
        )
    return members


def _check_mapping(ensemble: str, step: EnsembleStep, member: ModelSpec, nodes: dict[str, _Node]) -> None:
    inputs = {tensor.name: tensor for tensor in member.inputs}
    outputs = {tensor.name: tensor for tensor in member.outputs}
    for name, tensor in step.inputs.items():
        if name not in inputs:
            raise invalid_argument(
                f"in ensemble {ensemble}, ensemble tensor {tensor} is mapping to non-existing input {name} in model "
                f"{step.model}"
            )
    for name, spec in inputs.items():
        if name in step.inputs:
            _check_node(ensemble, step.inputs[name], spec, member, nodes)
        elif not spec.optional:
            raise invalid_argument(
                f"in ensemble {ensemble}, input {name} in model {step.model} is not mapped to any ensemble tensors"
            )
    for name, tensor in step.outputs.items():
        if name not in outputs:
            raise invalid_argument(
                f"in ensemble {ensemble}, ensemble tensor {tensor} is mapped from non-existing output {name} in model "
                f"{step.model}"
            )
        _check_node(ensemble, tensor, outputs[name], member, nodes)


def _check_node(ensemble: str, name: str, tensor: TensorSpec, member: ModelSpec, nodes: dict[str, _Node]) -> None:
    found = _Node(member.name, tensor.datatype, tensor.dims, member.max_batch_size > 0)
    known = nodes.setdefault(name, found)
    what = f"in ensemble {ensemble}, ensemble tensor {name}: inconsistent "
    if known.datatype is not found.datatype:
        raise invalid_argument(
            f"{what}data type: {known.datatype.config_name} is inferred from model {known.model} while "
            f"{found.datatype.config_name} is inferred from model {found.model}"
        )
    # With the batch axis they must fit only for a member that batches beside one that does not.
    if not dims_fit(known.dims, found.dims) and not dims_fit(known.full, found.full):
        raise invalid_argument(
            f"{what}shape: {_listed(known.full)} is inferred from model {known.model} while {_listed(found.full)} is "
            f"inferred from model {found.model}"
        )


def _check_decoupled(spec: ModelSpec, members: Sequence[ModelSpec]) -> bool:
    """Tensors from one run of a decoupled member belong together, and cannot be joined with any others."""
    steps = steps_of(spec)
    origins = {tensor.name: 0 for tensor in spec.inputs}
    waiting = list(range(len(steps)))
    label = 0
    while True:
        ready = [index for index in waiting if all(name in origins for name in steps[index].inputs.values())]
        if not ready:
            break
        waiting = [index for index in waiting if index not in ready]
        for index in ready:
            origin = _origin(spec.name, [origins[name] for name in steps[index].inputs.values()])
            if members[index].decoupled:
                label += 1
                origin = label
            origins.update(dict.fromkeys(steps[index].outputs.values(), origin))
    _origin(spec.name, [origins[tensor.name] for tensor in spec.outputs if tensor.name in origins])
    return label > 0


def _origin(ensemble: str, origins: Sequence[int]) -> int:
    if len(set(origins)) > 1:
        raise invalid_argument(
            f"in ensemble {ensemble}, step of model '{ensemble}' receives inputs originated from different decoupled "
            "models"
        )
    return origins[0] if origins else 0


def _listed(dims: Sequence[int]) -> str:
    return f"[{','.join(map(str, dims))}]"
