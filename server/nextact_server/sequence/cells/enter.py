"""The first layer of a stack of blocks: from an event's input to a row of `model_dim`."""

from __future__ import annotations

import math

import torch
from torch import nn

from nextact_server.sequence.config import SequenceConfig

_REST = 0.02


def enter_layer(config: SequenceConfig) -> nn.Linear:
    """Return a linear layer that starts as the item's vector, scaled to the length that blocks expect, and little else.

    Item vectors have length 1, so that they can be scored by; a block expects entries around 1 (Vaswani et al. 2017,
    3.4). Drawn as layers commonly are, the few inputs that say what kind of event it is would drown the item, and
    training takes epochs to find it.
    """
    layer = nn.Linear(config.input_dim, config.model_dim)
    nn.init.normal_(layer.weight, std=_REST)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[:, : config.item_dim] += math.sqrt(config.item_dim) * torch.eye(config.model_dim, config.item_dim)
    return layer
