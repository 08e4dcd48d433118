"""Which steps of an ensemble a request needs, and which of them wait for which tensor."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nextact_server.inference.infer_spec import EnsembleStep, ModelSpec

__all__ = ["EnsemblePlan", "steps_of"]


@dataclass(frozen=True, slots=True)
class EnsemblePlan:
    """The part of an ensemble that makes certain outputs.

    Attributes:
        outputs: names of the outputs that are asked for, in the configuration's order.
        consumers: the steps (by their index) that take an ensemble tensor.
        uses: how often an ensemble tensor is taken: by its consumers, and once more if it is asked for.
        first: steps that take no tensor at all.
    """

    outputs: tuple[str, ...]
    consumers: Mapping[str, tuple[int, ...]]
    uses: Mapping[str, int]
    first: tuple[int, ...]

    @classmethod
    def of(cls, spec: ModelSpec, asked: Sequence[str]) -> "EnsemblePlan":
        """The steps that lead to the outputs in `asked`; to all, where it is empty."""
        steps = steps_of(spec)
        outputs = tuple(tensor.name for tensor in spec.outputs if not asked or tensor.name in asked)
        made_by = {name: index for index, step in enumerate(steps) for name in step.outputs.values()}
        wanted, needed = list(outputs), set[int]()
        while wanted:
            index = made_by.get(wanted.pop())
            if index is not None and index not in needed:
                needed.add(index)
                wanted.extend(steps[index].inputs.values())
        consumers: dict[str, list[int]] = defaultdict(list)
        for index in sorted(needed):
            for name in dict.fromkeys(steps[index].inputs.values()):
                consumers[name].append(index)
        uses = {name: len(consumers[name]) + (name in outputs) for name in {*consumers, *outputs}}
        first = tuple(index for index in sorted(needed) if not steps[index].inputs)
        return cls(outputs, {name: tuple(indices) for name, indices in consumers.items()}, uses, first)


def steps_of(spec: ModelSpec) -> tuple[EnsembleStep, ...]:
    """The steps of an ensemble. Raises TypeError for a model that is none."""
    if not isinstance(spec.schedule, tuple):
        raise TypeError(f"model '{spec.name}' is no ensemble")
    return spec.schedule
