"""A run that can go on after it was killed: everything that moves, saved after each epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Saved:
    """A run after an epoch. `key` names the data and the settings; only a run with the same key may go on from it."""

    key: str
    log: list[dict[str, Any]]
    best: int
    steps: int
    numpy: Mapping[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]
    optimizer: dict[str, Any]


def save_run(path: Path, saved: Saved) -> None:
    """Write it whole or not at all: a kill while writing leaves the one before."""
    fresh = path.with_suffix(".fresh")
    with fresh.open("wb") as file:
        torch.save(asdict(saved), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load_run(path: Path, key: str) -> Saved | None:
    """Read a saved run; None where there is none, it is another one's, or it cannot be read.

    Only tensors and plain values are read (`weights_only`): no code in the file is run.
    """
    if not key or not path.exists():
        return None
    try:
        found = Saved(**torch.load(path, weights_only=True))
    except Exception:  # torch tells a broken file in many ways; training anew is the answer to all of them
        return None
    return found if found.key == key else None
