"""TensorBoard curves of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Writes each figure of an epoch as a curve into a folder that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path) -> None:
        """Write into `folder`, made where it is missing."""
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()

    def add(self, epoch: Mapping[str, float]) -> None:
        """Add an epoch's figures; `epoch["epoch"]` is its number, NaN is left out."""
        for name, value in epoch.items():
            if name != "epoch" and not math.isnan(value):
                self._writer.add_scalar(name, value, int(epoch["epoch"]))
