"""A model repository small enough to build in a moment: fresh weights for 60 items, and the shipped encoders."""

from pathlib import Path

import torch

from nextact_server.features.time import TIME_DIM
from nextact_server.sequence.card import DataSource, ModelCard
from nextact_server.sequence.checkpoint import save_model, state_bytes
from nextact_server.sequence.config import FIRST_ITEM, PriorConfig, SequenceConfig
from nextact_server.sequence.model import SequenceModel
from nextact_server.sequence.prior import Prior

ACTIONS = ("view", "like", "cart", "buy")
ITEMS = tuple(f"item-{number:02d}" for number in range(60))
ITEM_DIM = 16
CONTENT_DIM = 384
VERSION = "1"
CONFIG = 'name: "next_action"\nbackend: "nextact"\nmax_batch_size: 512\n'


def write_repository(root: Path, shipped: Path, *, exclude_seen: bool = False) -> Path:
    """Writes `root` as a repository with a tiny next-action model beside the encoders of the repository `shipped`."""
    version = root / "next_action" / VERSION
    version.mkdir(parents=True)
    (root / "next_action" / "config.pbtxt").write_text(CONFIG)
    model = tiny_model()
    save_model(model, tiny_card(model, exclude_seen=exclude_seen), version)
    for encoder in ("image_encoder", "text_encoder"):
        (root / encoder).symlink_to(shipped / encoder)
    return root


def tiny_model() -> SequenceModel:
    """A model whose weights are drawn by a seed, large enough for every event to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = SequenceConfig(
            cell="gated",
            layers=2,
            actions=ACTIONS,
            n_items=FIRST_ITEM + len(ITEMS),
            time_dim=TIME_DIM,
            item_dim=ITEM_DIM,
            model_dim=ITEM_DIM,
            hidden_dim=24,
            content_dim=CONTENT_DIM,
        )
        model = SequenceModel(config)
    model.add_prior(_prior())
    return model


def _prior() -> Prior:
    """Each item is followed by the next one, and half as often by the one after it; the last two by none."""
    heads = len(ITEMS) - 2
    prior = Prior(PriorConfig(weight=0.3, decay=0.6, reach=3, entries=2 * heads), FIRST_ITEM + len(ITEMS))
    row = torch.arange(FIRST_ITEM, FIRST_ITEM + heads)
    prior.starts[FIRST_ITEM : FIRST_ITEM + heads] = 2 * torch.arange(heads)
    prior.starts[FIRST_ITEM + heads :] = 2 * heads
    prior.items.copy_(torch.stack((row + 1, row + 2), dim=1).reshape(-1))
    prior.shares.copy_(torch.tensor([2 / 3, 1 / 3]).repeat(heads))
    return prior


def tiny_card(model: SequenceModel, *, exclude_seen: bool) -> ModelCard:
    """The card of such a model."""
    return ModelCard(
        name="next_action",
        version=VERSION,
        config=model.config,
        items=ITEMS,
        item_counts=(1,) * len(ITEMS),
        exclude_seen_default=exclude_seen,
        state_bytes_per_user=state_bytes(model),
        data=DataSource(name="none", sha256="00", events=0, users=0, licence="none"),
        split="none",
        tie_rule="none",
        seed=7,
        date="2024-05-01",
        encoders={"text": "text_encoder", "image": "image_encoder"},
        licences={},
    )
