"""A world small enough to train on in a second: everyone walks the same circle of items, buying every third."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from nextact_server.training.content import ContentStore, Encode, Vectors

ITEMS = 12
DIM = 16
START = datetime(2024, 1, 1, tzinfo=UTC)

CONFIG = """
name = "tiny"
exclude_seen = false
record_training_users = true

[data]
kind = "events"
files = ["events.parquet"]
items = "items.csv"
name = "tiny world"

[model]
cell = "gru"
item_dim = 16
hidden_dim = 32
input_dropout = 0.0
dropout = 0.0

[fit]
epochs = 12
average = 0.9
patience = 12
learning_rate = 0.02
window = 8
batch_events = 128
seed = 4
"""


def hashing_encoder() -> Encode:
    """A text's vector is drawn by its hash."""

    def run(texts: Sequence[str]) -> Vectors:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        rows = np.stack([np.random.default_rng(seed).normal(size=DIM) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return run


def content_store(folder: Path) -> ContentStore:
    return ContentStore(folder / "texts.npz", hashing_encoder, DIM, "hashing")


def events(users: int = 40, each: int = 20) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": f"u{user}",
            "action": "buy" if (user + step) % 3 == 0 else "view",
            "item_id": f"i{(user * 5 + step) % ITEMS:02d}",
            "event_time": START + timedelta(seconds=60 * step),
            "text": f"note of u{user}" if step == 4 else None,
        }
        for user in range(users)
        for step in range(each)
    )


def write_world(folder: Path, config: str = CONFIG) -> Path:
    """Write events, items and the configuration, whose path is returned."""
    events().write_parquet(folder / "events.parquet")
    items = [f"i{row:02d}" for row in range(ITEMS)]
    pl.DataFrame({"item_id": items, "text": [f"thing {item}" for item in items]}).write_csv(folder / "items.csv")
    path = folder / "train.toml"
    path.write_text(config)
    return path
