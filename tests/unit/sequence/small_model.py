"""A model small enough to be asked thousands of times, with its card, index and engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from nextact_server.events.hashing import hash_strings
from nextact_server.features.time import TIME_DIM, time_features
from nextact_server.sequence.card import DataSource, ModelCard
from nextact_server.sequence.config import FIRST_ITEM, CellName, SequenceConfig
from nextact_server.sequence.engine import SequenceEngine, StepRows
from nextact_server.sequence.index import ItemIndex
from nextact_server.sequence.model import SequenceModel

CELLS: tuple[CellName, ...] = ("gru", "lstm", "lru", "gated", "sasrec")
ACTIONS = ("view", "buy", "like")
TRAINED = tuple(f"t{number:02}" for number in range(12))
CONTENT_DIM = 6


def small_model(cell: CellName = "gru", trained: int = len(TRAINED)) -> SequenceModel:
    torch.manual_seed(11)
    config = SequenceConfig(
        cell=cell,
        actions=ACTIONS,
        n_items=FIRST_ITEM + trained,
        time_dim=TIME_DIM,
        item_dim=8,
        hidden_dim=12,
        content_dim=CONTENT_DIM,
        action_dim=4,
        kind_dim=3,
        event_content_dim=5,
        layers=1 if cell in ("gru", "lstm") else 2,
        model_dim=10,
        window=4,
    )
    model = SequenceModel(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.id_bias.weight, std=0.5)
    return model


def small_card(model: SequenceModel, items: Sequence[str] = TRAINED) -> ModelCard:
    return ModelCard(
        name="small",
        version="1",
        config=model.config,
        items=tuple(items),
        item_counts=(1,) * len(items),
        exclude_seen_default=True,
        state_bytes_per_user=48,
        data=DataSource(name="none", sha256="0", events=0, users=0, licence="none"),
        split="none",
        tie_rule="none",
        seed=11,
        date="2026-01-01",
        encoders={},
        licences={},
    )


def small_index(model: SequenceModel, max_items: int = 10_000) -> ItemIndex:
    return ItemIndex(model, small_card(model, TRAINED[: model.config.n_items - FIRST_ITEM]), max_items)


def small_engine(cell: CellName = "gru", *, lateness_s: float = 60.0, apply_late: bool = True) -> SequenceEngine:
    model = small_model(cell)
    return SequenceEngine(model, small_index(model), time_features, lateness_s, apply_late)


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the model needs it; `action` is the model's code, `content` seeds a vector."""

    lane: int
    time: int
    action: int = 2
    item: str | None = None
    content: int | None = None
    active: bool = True


def content_vector(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(CONTENT_DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def step_of(events: Sequence[Event]) -> StepRows:
    with_content = [row for row, event in enumerate(events) if event.content is not None]
    return StepRows(
        lane=np.array([event.lane for event in events], np.int64),
        active=np.array([event.active for event in events], np.bool_),
        event_time=np.array([event.time for event in events], np.int64),
        action=np.array([event.action for event in events], np.int64),
        item_key=hash_strings(pa.array([event.item or "" for event in events], pa.string())),
        has_item=np.array([event.item is not None for event in events], np.bool_),
        content_rows=np.array(with_content, np.int64),
        content=np.stack([content_vector(events[row].content or 0) for row in with_content])
        if with_content
        else np.zeros((0, 0), np.float32),
    )
