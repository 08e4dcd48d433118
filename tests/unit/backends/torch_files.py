"""Small torch models, saved as `model.pt` and `model.pt2`."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Pair(nn.Module):
    """Two arguments, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x) + y, x.sum(dim=1, keepdim=True)


class Named(nn.Module):
    """A dict in, a dict out."""

    def forward(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"double": tensors["a"] * 2, "more": tensors["b"] + 1}


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Writes(nn.Module):
    """Writes to its argument, through a view."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.view(-1).add_(1)
        return x


class WritesOwn(nn.Module):
    """Writes, but only to what it made itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2).relu_()


class Fails(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("negative")
        return x


class Texts(nn.Module):
    def forward(self, x: list[str]) -> list[str]:
        return [one + "!" for one in x]


class Dropped(nn.Module):
    """Random while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(x)


def script(module: nn.Module, version_dir: Path, name: str = "model.pt") -> Path:
    version_dir.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(module).save(str(version_dir / name))
    return version_dir


def export(
    module: nn.Module, version_dir: Path, arguments: tuple[Any, ...], dynamic: Any, name: str = "model.pt2"
) -> Path:
    version_dir.mkdir(parents=True, exist_ok=True)
    torch.export.save(torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic), version_dir / name)
    return version_dir
