"""How the registry goes about the repository."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from nextact_server.inference.infer_errors import invalid_argument

__all__ = ["ControlMode", "RegistryOptions", "resource_limits"]

ALL_MODELS = "*"


class ControlMode(StrEnum):
    """Triton's --model-control-mode."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """Triton's options of the same names.

    Attributes:
        control_mode: NONE loads everything at the start and nothing after; POLL reloads what changes on disk; EXPLICIT
            loads what it is told to.
        poll_seconds: between two looks at the repository.
        startup_models: what EXPLICIT loads at the start; '*' alone is all.
        pinned: models that are loaded at the start in every mode, and then neither reloaded nor unloaded.
        exit_on_error: whether a model that cannot be loaded fails the start. A pinned one always does.
        load_threads: how many models are loaded side by side.
    """

    control_mode: ControlMode = ControlMode.NONE
    poll_seconds: float = 15.0
    startup_models: tuple[str, ...] = ()
    pinned: frozenset[str] = frozenset()
    exit_on_error: bool = True
    load_threads: int = 4

    def __post_init__(self) -> None:
        if ALL_MODELS in self.startup_models and len(self.startup_models) > 1:
            raise invalid_argument(
                f"Wildcard model name '{ALL_MODELS}' must be the ONLY startup model if specified at all."
            )


def resource_limits(texts: Iterable[str]) -> dict[str, int]:
    """Limits of the rate limiter, by name or `name:device`, from Triton's `name:count[:device]`.

    Raises:
        InferError: INVALID_ARG, another form.
    """
    limits = {}
    for text in texts:
        name, *numbers = text.split(":")
        if not name or len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
            raise invalid_argument(f"rate_limit_resources: {text!r} is not name:count or name:count:device")
        key = name if len(numbers) == 1 else f"{name}:{numbers[1]}"
        limits[key] = int(numbers[0])
    return limits
