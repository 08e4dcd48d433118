"""What the benchmark measures and how it is judged: samples, their medians and spread, ratios of pairs, targets."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Figure", "Sample", "Target", "alternate", "percentile", "ratios", "sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Repeated measurements of one thing, in the order in which they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The least value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest value."""
        return max(self.values)


@dataclass(frozen=True, slots=True)
class Target:
    """A limit that a median must keep: at least `value`, or at most, or (`above`) more than it."""

    kind: Literal["at least", "at most", "above"]
    value: float

    def holds(self, measured: float) -> bool:
        """Whether the measured value keeps it."""
        if self.kind == "at most":
            return measured <= self.value
        return measured > self.value if self.kind == "above" else measured >= self.value

    def __str__(self) -> str:
        sign = {"at least": "≥", "at most": "≤", "above": ">"}[self.kind]
        return f"{sign} {number(self.value)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report. `note` says how it was measured, or why it could not be (then `sample` is None)."""

    part: str
    name: str
    unit: str
    sample: Sample | None
    target: Target | None = None
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`ok`, `short`, or nothing where there is no target or no measurement."""
        if self.target is None or self.sample is None:
            return ""
        return "ok" if self.target.holds(self.sample.median) else "short"

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the median spelled out."""
        row = asdict(self)
        row["median"] = None if self.sample is None else self.sample.median
        row["verdict"] = self.verdict
        return row


def sample(values: Sequence[float]) -> Sample:
    """Measurements as a sample. Raises ValueError if there are none."""
    if not values:
        raise ValueError("a sample needs at least one measurement")
    return Sample(tuple(float(value) for value in values))


def ratios(above: Sample, below: Sample) -> Sample:
    """The ratios of measurements taken in the same round. Raises ValueError if the rounds do not match."""
    if len(above.values) != len(below.values):
        raise ValueError(f"{len(above.values)} rounds against {len(below.values)}; each round measures both")
    return Sample(tuple(a / b for a, b in zip(above.values, below.values, strict=True)))


def alternate(rounds: int, measures: Sequence[Callable[[], float]], *, warm_up: bool = True) -> list[Sample]:
    """Takes measurements in turn, A B C A B C ..., so that what disturbs the machine disturbs all of them alike.

    With `warm_up` there is one round before, which does not count.
    """
    if warm_up:
        for measure in measures:
            measure()
    taken: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for values, measure in zip(taken, measures, strict=True):
            values.append(measure())
    return [sample(values) for values in taken]


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that `percent` of the values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
