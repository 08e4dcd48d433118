from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nextact_server.sequence.card import ModelCard
from nextact_server.sequence.checkpoint import load_model
from nextact_server.sequence.config import FIRST_ITEM, UNKNOWN_ITEM
from nextact_server.sequence.model import SequenceModel
from nextact_server.training import movielens
from nextact_server.training.datasets import Dataset
from nextact_server.training.evaluate import required_gains
from nextact_server.training.sequences import residue

ROOT = Path(__file__).parents[3]
REPOSITORY = ROOT / "model_repository" / "next_action"


@pytest.fixture(scope="module")
def shipped() -> tuple[SequenceModel, ModelCard]:
    return load_model(REPOSITORY / "1")


@pytest.fixture(scope="module")
def card(shipped: tuple[SequenceModel, ModelCard]) -> ModelCard:
    return shipped[1]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return movielens.load(ROOT / "examples" / "movielens")


def test_the_demos_users_are_absent_from_training(card: ModelCard, data: Dataset) -> None:
    assert card.training_users is not None
    assert len(card.excluded_users) > 0
    assert not set(card.excluded_users) & set(card.training_users)
    everyone = set(data.events["user_id"])
    assert {user for user in everyone if residue(user, 10) == 0} == set(card.excluded_users)
    assert everyone - set(card.excluded_users) == set(card.training_users)


def test_the_cards_counts_are_those_of_the_training_users_alone(card: ModelCard, data: Dataset) -> None:
    own = data.events.filter(~pl.col("user_id").is_in(list(card.excluded_users)))
    counted = dict(own["item_id"].value_counts().iter_rows())
    assert dict(zip(card.items, card.item_counts, strict=True)) == {
        item: count for item, count in counted.items() if count >= int(card.training["min_item_count"])
    }
    assert card.data.events == own.height
    assert card.data.sha256 == data.sha256


def test_the_card_claims_to_beat_the_counts_beyond_chance(card: ModelCard) -> None:
    assert card.evaluation is not None
    assert card.evaluation.users == len(card.excluded_users)
    for name in required_gains():
        gain = card.evaluation.gains[name]
        assert gain.low > 0, f"{name}: {gain}"


def test_the_card_tells_licences_encoder_and_repeat_consumption(card: ModelCard) -> None:
    assert card.exclude_seen_default
    assert card.actions == movielens.ACTIONS
    assert "sha256" in card.tie_rule
    assert card.encoders["text"].startswith("all-MiniLM-L6-v2")
    assert card.licences["MovieLens latest-small"] == movielens.LICENCE
    assert (ROOT / "examples" / "movielens" / "README.txt").read_text().count("may redistribute the data set") == 1


def test_a_users_state_takes_at_most_two_kibibytes(card: ModelCard) -> None:
    assert card.state_bytes_per_user <= 2048


def test_ids_are_not_in_the_order_of_the_catalogue(card: ModelCard) -> None:
    numbers = [int(item) for item in card.items]
    rising = sum(a < b for a, b in pairwise(numbers))
    assert 0.45 < rising / len(numbers) < 0.55


def test_every_row_of_the_vocabulary_can_be_scored(shipped: tuple[SequenceModel, ModelCard]) -> None:
    model, card = shipped
    rows = torch.arange(FIRST_ITEM, FIRST_ITEM + len(card.items))
    nothing = torch.zeros(len(rows), model.config.content_dim)
    absent = torch.zeros(len(rows), dtype=torch.bool)
    vectors = model.item_vectors(rows, nothing, absent)
    scores = model.query(model.initial_hidden()) @ vectors.T + model.item_bias(rows, nothing, absent)
    assert torch.isfinite(scores).all()
    unknown = torch.full((1,), UNKNOWN_ITEM)
    assert torch.isfinite(model.item_bias(unknown, nothing[:1], absent[:1])).all()


def test_the_repository_entry_is_in_tritons_syntax() -> None:
    text = (REPOSITORY / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.name == REPOSITORY.name
    assert config.backend == "nextact"
    assert config.max_batch_size > 0
