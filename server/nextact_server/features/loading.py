"""Loading a model onto its device: OpenVINO on the CPU, torch on CUDA."""

from dataclasses import dataclass
from pathlib import Path

from nextact_server.inference.cores import CoreBudget
from nextact_server.inference.device import InstanceKind, choose_device
from nextact_server.inference.ir_cache import IrCache
from nextact_server.inference.openvino_runtime import TorchSource, load_openvino
from nextact_server.inference.runtime import LinearHead, Runtime

__all__ = ["EncoderOptions", "load_runtime"]


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """Where and how encoders run.

    `cores`: what models and decoders share; `threads`: inference threads of a model on the CPU; `half`: float16 on
    CUDA, never by itself.
    """

    cache_dir: Path
    cores: CoreBudget
    threads: int
    kind: InstanceKind = "KIND_AUTO"
    half: bool = False


def load_runtime(
    name: str, key: str, source: TorchSource, options: EncoderOptions, head: LinearHead | None = None
) -> Runtime:
    """Load a model; `key` names everything its conversion depends on but OpenVINO itself."""
    if choose_device(options.kind) == "cuda":
        from nextact_server.inference.torch_runtime import TorchRuntime

        module, _ = source()
        return TorchRuntime(module, device="cuda", half=options.half, head=head)
    cache = IrCache(options.cache_dir)
    return load_openvino(name, key, source, cache, threads=options.threads, cores=options.cores, head=head)
