"""Which backend runs a model: as its configuration says, or by the files of its version."""

from pathlib import Path

from nextact_server.repository.config import ModelConfig
from nextact_server.repository.errors import RepositoryError

__all__ = ["ENSEMBLE", "PLATFORMS", "fill_backend", "is_ensemble"]

ENSEMBLE = "ensemble"

PLATFORMS = {"pytorch_libtorch": "pytorch", "onnxruntime_onnx": "onnxruntime"}
"""Triton's platforms of the backends that have one."""

_FILES = {"pytorch": ("model.pt", "model.pt2"), "onnxruntime": ("model.onnx",), "python": ("model.py",)}
_OWN_FILES = ("model.safetensors", "card.json")


def is_ensemble(config: ModelConfig) -> bool:
    """Whether it is made of other models."""
    return bool(config.platform == ENSEMBLE)


def fill_backend(config: ModelConfig, version_dir: Path) -> None:
    """Set backend, platform and default_model_filename where they were left out, as Triton does.

    Raises:
        RepositoryError: neither the configuration nor a file says which backend it is.
    """
    if is_ensemble(config):
        return
    if not config.backend:
        config.backend = _of_config(config) or _of_files(version_dir)
    if not config.backend:
        raise RepositoryError(
            version_dir.parent,
            f"Invalid model name: Could not determine backend for model '{config.name}' with no backend in model "
            "configuration. Expected model name of the form 'model.<backend_name>'.",
        )
    if not config.platform:
        config.platform = next((name for name, backend in PLATFORMS.items() if backend == config.backend), "")
    if not config.default_model_filename and config.backend in _FILES:
        files = _FILES[config.backend]
        config.default_model_filename = next((name for name in files if (version_dir / name).exists()), files[0])


def _of_config(config: ModelConfig) -> str:
    if config.platform:
        # As in Triton, what stands before the first underscore is tried where the platform is not known.
        return PLATFORMS.get(config.platform) or str(config.platform).partition("_")[0]
    if config.default_model_filename:
        for backend, names in _FILES.items():
            if config.default_model_filename in names:
                return backend
    return ""


def _of_files(version_dir: Path) -> str:
    for backend, names in _FILES.items():
        if any((version_dir / name).exists() for name in names):
            return backend
    return "nextact" if all((version_dir / name).is_file() for name in _OWN_FILES) else ""
