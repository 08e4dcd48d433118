"""Where the instances of a model run."""

from nextact_server.inference.device import choose_device
from nextact_server.inference.infer_spec import ModelSpec, Placement

__all__ = ["gpu_count", "placements"]


def gpu_count() -> int:
    """How many GPUs torch can use; torch is imported only where a driver is there."""
    if choose_device("KIND_AUTO") != "cuda":
        return 0
    import torch

    return torch.cuda.device_count()


def placements(spec: ModelSpec) -> list[Placement]:
    """One placement per instance: `count` for each device of each group, named `<group>_<i>` as in Triton.

    KIND_MODEL is placed on the CPU, and goes elsewhere by itself. The groups are those of a completed configuration,
    where KIND_AUTO is no more.
    """
    places = []
    for group in spec.instance_groups:
        devices = [f"cuda:{gpu}" for gpu in group.gpus] if group.kind == "KIND_GPU" else ["cpu"]
        of_group = [device for device in devices for _ in range(group.count)]
        places += [Placement(f"{group.name}_{number}", device, group) for number, device in enumerate(of_group)]
    return places
