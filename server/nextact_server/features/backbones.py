"""The encoders as torch modules. Imported only to convert a model or to run it on CUDA, never for a cached one.

EfficientNet-Lite0: Tan & Le, EfficientNet (ICML 2019), in the Lite form without squeeze-and-excitation and swish.
ResNet-18: He et al., Deep Residual Learning (CVPR 2016). all-MiniLM-L6-v2: Reimers & Gurevych, Sentence-BERT (EMNLP
2019) on MiniLM (Wang et al., NeurIPS 2020).
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nextact_server.features.errors import EncoderError

__all__ = ["ImageModule", "TextModule", "efficientnet_lite0", "minilm", "resnet18"]


class ImageModule(nn.Module):
    """uint8 [n, size, size, 3] -> float32 [n, features]: the last feature map, averaged over the picture.

    Normalisation of the pixels is inside, so that a runtime gets bytes as they come from the decoder.
    """

    def __init__(self, trunk: nn.Module, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.trunk = trunk
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode a batch."""
        image = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        features: torch.Tensor = self.trunk(image).mean((2, 3))
        return features


class TextModule(nn.Module):
    """Token ids and mask, int64 [n, length] -> float32 [n, 384]: the mean over the tokens of the mask, at length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode a batch of padded texts."""
        hidden = self.bert(input_ids=ids, attention_mask=mask, return_dict=False)[0]
        weights = mask.unsqueeze(-1).float()
        return F.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0), dim=1)


def efficientnet_lite0(weights: Path) -> ImageModule:
    """Build EfficientNet-Lite0 (1280 features) with the weights of a `.pth` file."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    _load(net, weights)
    return ImageModule(_Features(net), (127.0,) * 3, (128.0,) * 3).eval()


def resnet18(weights: Path) -> ImageModule:
    """Build torchvision's ResNet-18 (512 features) with the weights of an official `.pth` file."""
    from torchvision.models import resnet18 as build

    net = build(weights=None)
    _load(net, weights)
    trunk = nn.Sequential(*list(net.children())[:-2])  # without pooling and classifier
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for pixels from 0 to 1
    return ImageModule(trunk, _times_255(mean), _times_255(std)).eval()


def minilm(directory: Path) -> TextModule:
    """Build the text encoder from a directory with `config.json` and `model.safetensors`."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig.from_json_file(str(directory / "config.json"))
    config._attn_implementation = "sdpa"
    bert = BertModel(config, add_pooling_layer=False)
    path = directory / "model.safetensors"
    # The pooler belongs to next-sentence prediction; position ids were once stored and are computed now.
    tensors = {
        name: tensor
        for name, tensor in load_file(path).items()
        if not name.startswith("pooler.") and not name.endswith("position_ids")
    }
    try:
        bert.load_state_dict(tensors)
    except RuntimeError as error:
        raise EncoderError(path, f"is not the weights of this config.json: {error}") from error
    return TextModule(bert).eval()


class _Features(nn.Module):
    """The feature map of an EfficientNet, as a module of its own so that tracing sees it."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.net.extract_features(image)
        return features


def _load(net: nn.Module, weights: Path) -> None:
    try:
        # Only tensors: a pickle with anything else in it is refused, not executed.
        net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a broken file shows as any of a dozen exceptions
        raise EncoderError(weights, f"cannot be loaded as weights of {type(net).__name__}: {error}") from error


def _times_255(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return (values[0] * 255, values[1] * 255, values[2] * 255)
