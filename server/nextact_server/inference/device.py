"""Which device a model instance runs on, decided without importing torch where there is no GPU to find."""

import os
import shutil
from pathlib import Path
from typing import Literal

__all__ = ["Device", "DeviceError", "InstanceKind", "choose_device", "cuda_possible"]

InstanceKind = Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU"]
Device = Literal["cpu", "cuda"]


class DeviceError(RuntimeError):
    """A model asks for a device that this machine does not have."""


def cuda_possible() -> bool:
    """Whether a look for CUDA is worth the seconds that importing torch takes: a driver is there and not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if Path("/dev/nvidiactl").exists() or any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    return shutil.which("nvidia-smi") is not None


def choose_device(kind: InstanceKind = "KIND_AUTO") -> Device:
    """Return the device of an instance group of that kind (Triton's `ModelInstanceGroup.Kind`).

    KIND_AUTO is CUDA where torch sees it, else the CPU.

    Raises:
        DeviceError: KIND_GPU without a usable CUDA device.
    """
    if kind == "KIND_CPU":
        return "cpu"
    if cuda_possible() and _torch_sees_cuda():
        return "cuda"
    if kind == "KIND_GPU":
        raise DeviceError(
            "instance_group.kind is KIND_GPU, but torch sees no CUDA device; set it to KIND_AUTO or KIND_CPU"
        )
    return "cpu"


def _torch_sees_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
