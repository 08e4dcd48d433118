"""Which versions of a model there are, and which of them its version policy offers."""

import re
from collections.abc import Sequence
from pathlib import Path

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.repository.config import ModelConfig

__all__ = ["is_version", "missing_versions", "offered_versions", "parse_version", "version_numbers"]

_LEADING_INTEGER = re.compile(r"\s*([+-]?)0*(\d{1,19})(?!\d)", re.ASCII)
"""No more digits than fit: a long text must not cost what its number would."""
_LARGEST = 2**63 - 1


def is_version(name: str) -> bool:
    """Whether a directory's name is a version: a positive number without leading zeros, as Triton documents it.

    One that does not fit into 64 bits is none, for nobody could ask for it.
    """
    if not (name.isascii() and name.isdigit()) or name.startswith("0"):
        return False
    return len(name) <= len(str(_LARGEST)) and int(name) <= _LARGEST


def version_numbers(model_dir: Path) -> list[int]:
    """The versions that a model's directory holds, rising. Raises OSError where it cannot be read."""
    return sorted(int(one.name) for one in model_dir.iterdir() if is_version(one.name) and one.is_dir())


def offered_versions(config: ModelConfig, numbers: Sequence[int]) -> tuple[int, ...]:
    """Those of the versions `numbers` that the policy offers, rising; the latest one where it has no policy."""
    present = sorted(numbers)
    choice = config.version_policy.WhichOneof("policy_choice")
    if choice == "all":
        return tuple(present)
    if choice == "specific":
        wanted = set(config.version_policy.specific.versions)
        return tuple(number for number in present if number in wanted)
    count = config.version_policy.latest.num_versions if choice == "latest" else 1
    return tuple(present[len(present) - count :]) if 0 < count < len(present) else tuple(present if count else ())


def missing_versions(config: ModelConfig, numbers: Sequence[int]) -> list[int]:
    """The versions that the policy names and that are not there."""
    return sorted(set(config.version_policy.specific.versions) - set(numbers))


def parse_version(text: str) -> int:
    """A version as a caller writes it, read as Triton does: white space before and anything after the number pass.

    Raises:
        InferError: INVALID_ARG, no number, too large a one, or a negative one.
    """
    found = _LEADING_INTEGER.match(text)
    if found is None or int(found[2]) > _LARGEST:
        raise invalid_argument(
            f"failed to get model version from specified version string '{text}' (details: stol), version should be "
            "an integral value > 0"
        )
    number = int(found[2])
    if found[1] == "-" and number:
        raise invalid_argument(f"invalid model version specified '{text}' , version should be an integral value > 0")
    return number
