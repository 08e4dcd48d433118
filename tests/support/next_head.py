"""A head for the next event, for models that were built without one."""

from dataclasses import replace

import torch

from nextact_server.sequence.model import SequenceModel
from nextact_server.sequence.survival import BINS

HORIZON_S = 7200.0


def with_next_head(model: SequenceModel, horizon_s: float = HORIZON_S) -> SequenceModel:
    """The model itself, which from now on foretells when the next event comes, by weights drawn by a seed."""
    model.config = replace(model.config, horizon_s=horizon_s)
    weights = torch.randn(BINS, model.config.output_dim, generator=torch.Generator().manual_seed(3))
    model.to_next = torch.nn.Linear(model.config.output_dim, BINS).requires_grad_(False)
    model.to_next.weight.copy_(weights)
    model.to_next.bias.fill_(-2.0)
    return model
