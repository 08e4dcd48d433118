"""The `parameters` of Triton's PyTorch backend."""

import logging
from dataclasses import dataclass

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.repository.config import ModelConfig

__all__ = ["TorchOptions", "torch_options"]

logger = logging.getLogger(__name__)

_PROCESS_WIDE = ("ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING", "ENABLE_TENSOR_FUSER")
_THREADS = ("INTRA_OP_THREAD_COUNT", "INTER_OP_THREAD_COUNT")


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """What a model's parameters ask for.

    Attributes:
        inference_mode: INFERENCE_MODE: torch.inference_mode, else only torch.no_grad.
        optimized: not DISABLE_OPTIMIZED_EXECUTION: TorchScript's graph optimizations.
        cudnn: not DISABLE_CUDNN.
        clean_cache: ENABLE_CACHE_CLEANING: give CUDA memory back after every run.
        share_weights: ENABLE_WEIGHT_SHARING: the instances of a device share one copy. On unless set to false.
    """

    inference_mode: bool = True
    optimized: bool = True
    cudnn: bool = True
    clean_cache: bool = False
    share_weights: bool = True


def torch_options(config: ModelConfig) -> TorchOptions:
    """Read the parameters; those that would change all models of the process are named in a warning and left alone.

    Raises:
        InferError: a value is no boolean.
    """
    for names, why in (
        (_PROCESS_WIDE, "it would change every model of this server"),
        (_THREADS, "the server sets torch's threads once for all models"),
    ):
        for name in names:
            if name in config.parameters:
                logger.warning("model %s: parameter %s is ignored: %s", config.name, name, why)
    return TorchOptions(
        inference_mode=_flag(config, "INFERENCE_MODE", True),
        optimized=not _flag(config, "DISABLE_OPTIMIZED_EXECUTION", False),
        cudnn=not _flag(config, "DISABLE_CUDNN", False),
        clean_cache=_flag(config, "ENABLE_CACHE_CLEANING", False),
        share_weights=_flag(config, "ENABLE_WEIGHT_SHARING", True),
    )


def _flag(config: ModelConfig, name: str, default: bool) -> bool:
    if name not in config.parameters:
        return default
    value = str(config.parameters[name].string_value)
    if value.lower() in ("true", "1", "on"):
        return True
    if value.lower() in ("false", "0", "off"):
        return False
    raise invalid_argument(f"model '{config.name}': parameter {name} is '{value}', and must be true or false")
