import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from tiny_world import CONFIG, content_store, write_world

from nextact_server.sequence.card import ModelCard
from nextact_server.sequence.checkpoint import load_model
from nextact_server.training.config import ConfigError, load_config
from nextact_server.training.datasets import DataError
from nextact_server.training.evaluation_run import run_evaluation
from nextact_server.training.prepare import Prepared, load_dataset, prepare
from nextact_server.training.run import run_training
from nextact_server.training.scoring import ModelScorer, event_inputs, vocabulary_rows
from nextact_server.training.sequences import residue

QUIET = Console(quiet=True)


def train(folder: Path, config: str = CONFIG, name: str = "1") -> ModelCard:
    return run_training(
        write_world(folder, config),
        folder / name,
        logs_dir=folder / "logs",
        store=content_store(folder),
        console=QUIET,
    )


def prepared(folder: Path) -> Prepared:
    config = load_config(folder / "train.toml")
    return prepare(config, load_dataset(config, folder), content_store(folder))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def card(world: Path) -> ModelCard:
    return load_model(world / "1")[1]


def test_the_model_learns_the_circle_and_the_purchases(card: ModelCard) -> None:
    assert card.evaluation is not None
    assert card.evaluation.metrics["HR@1"].value > 0.95
    assert card.evaluation.metrics["next-action accuracy"].value > 0.95
    assert card.evaluation.gains["HR@1 over popularity"].low > 0
    assert card.evaluation.baselines["first-order Markov"]["HR@1"].value == 1.0
    assert card.evaluation.baselines["last action repeated"]["next-action accuracy"].value < 0.5


def test_the_card_says_what_was_done(card: ModelCard) -> None:
    assert card.actions == ("view", "buy")
    assert sorted(card.items) == [f"i{row:02d}" for row in range(12)]
    assert list(card.items) != sorted(card.items), "the order of ids is drawn"
    assert sum(card.item_counts) == card.data.events
    assert not card.exclude_seen_default
    assert card.state_bytes_per_user == 4 * 32
    assert card.encoders == {"text": "hashing"}
    assert 1 <= card.training["chosen_epoch"] <= 12
    assert card.seed == 4


def test_excluded_users_are_in_nothing_that_is_trained(world: Path, card: ModelCard) -> None:
    data = prepared(world)
    assert card.excluded_users == tuple(sorted(user for user in card.excluded_users if residue(user, 10) == 0))
    assert data.excluded_users == card.excluded_users
    assert len(card.excluded_users) > 0
    assert data.held_out is not None
    assert data.validation is not None
    excluded = set(card.excluded_users)
    for part in (data.train, data.first_fit, data.validation.sequences):
        assert not excluded & set(part.users)
    assert card.training_users == tuple(sorted(data.train.users))
    assert not set(data.first_fit.users) & set(data.validation.sequences.users)
    assert excluded == set(data.held_out.sequences.users)
    # Everyone leaves one note of their own, so its vector betrays its author.
    notes = {row.tobytes() for row in data.held_out.sequences.texts}
    assert len(notes) == len(excluded)
    assert not notes & {row.tobytes() for row in data.train.texts}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world: Path, tmp_path: Path) -> None:
    train(tmp_path)
    first, again = load_model(world / "1")[0].state_dict(), load_model(tmp_path / "1")[0].state_dict()
    for name, tensor in first.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)
    other = train(tmp_path, CONFIG.replace("seed = 4", "seed = 5").replace("epochs = 12", "epochs = 1"), "2")
    assert other.items != load_model(world / "1")[1].items


def test_an_evaluation_of_the_written_version_repeats_the_card(world: Path, card: ModelCard) -> None:
    got = run_evaluation(
        world / "1", world / "train.toml", out_dir=world / "judged", store=content_store(world), console=QUIET
    )
    assert got == card.evaluation
    stored = json.loads((world / "judged" / "evaluation.json").read_text())
    assert stored["metrics"]["HR@10"]["value"] == got.metrics["HR@10"].value
    assert "| HR@10 |" in (world / "judged" / "evaluation.md").read_text()


def test_scores_in_one_scan_are_those_of_event_by_event(world: Path) -> None:
    model, card = load_model(world / "1")
    data = prepared(world)
    assert data.held_out is not None
    held_out = data.held_out.sequences
    vocab = vocabulary_rows(data.task.catalogue, card.items)
    scorer = ModelScorer(model, data.task.catalogue, vocab)
    rows = np.arange(held_out.starts[0], held_out.starts[1])
    foretold = scorer(held_out, rows, None)
    assert foretold.scores is not None
    assert foretold.actions is not None
    state = model.initial_state(1)
    content, has = torch.from_numpy(data.task.catalogue.content), torch.from_numpy(data.task.catalogue.has_content)
    vectors = model.item_vectors(torch.from_numpy(vocab), content, has)
    bias = model.item_bias(torch.from_numpy(vocab), content, has)
    for i, row in enumerate(rows):
        hidden = model.hidden(state)
        one = model.query(hidden) @ vectors.T + bias
        np.testing.assert_allclose(foretold.scores[i], one[0].numpy(), atol=1e-4)
        log = model.action_logits(hidden).log_softmax(dim=1)[0]
        np.testing.assert_allclose(foretold.actions[i], log.numpy(), atol=1e-4)
        x = event_inputs(model, held_out, np.array([row]), torch.from_numpy(vocab), vectors)
        _, state = model.scan(x, torch.tensor([1]), state)


def test_an_item_never_trained_on_is_found_by_its_content(tmp_path: Path) -> None:
    # The ids of rare items are withheld, so the circle can only be walked by what the items' texts say.
    config = CONFIG.replace("seed = 4", "seed = 4\nmin_item_count = 1000000").replace("epochs = 12", "epochs = 30")
    card = train(tmp_path, config)
    assert card.items == ()
    assert card.evaluation is not None
    assert card.evaluation.metrics["HR@1"].value > 0.9


def test_every_epoch_is_a_line_of_the_log(world: Path, card: ModelCard) -> None:
    log = pl.read_csv(world / "logs" / "fit.csv")
    assert log["epoch"].to_list() == list(range(1, log.height + 1))
    assert log["item_loss"][-1] < log["item_loss"][0]
    best = log.filter(pl.col("epoch") == card.training["chosen_epoch"])
    assert best["ndcg_at_10"][0] == log["ndcg_at_10"].max() == card.validation["NDCG@10"]
    assert pl.read_csv(world / "logs" / "refit.csv").height == card.training["chosen_epoch"]


def test_other_data_than_the_card_names_is_refused(world: Path, tmp_path: Path) -> None:
    path = write_world(tmp_path)
    (tmp_path / "items.csv").write_text("item_id,text\ni01,changed\n")
    with pytest.raises(DataError, match="sha256"):
        run_evaluation(world / "1", path, out_dir=tmp_path, store=content_store(tmp_path), console=QUIET)


def test_other_held_out_users_than_the_cards_are_refused(world: Path, tmp_path: Path) -> None:
    path = write_world(tmp_path, CONFIG + "\n[split]\nexcluded = [0, 2]\n")
    with pytest.raises(DataError, match="other users"):
        run_evaluation(world / "1", path, out_dir=tmp_path, store=content_store(tmp_path), console=QUIET)


def test_a_split_that_leaves_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="excluded"):
        train(tmp_path, CONFIG + "\n[split]\nmodulus = 2\nexcluded = [0]\nvalidation = [1]\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG.replace("epochs = 12", "epochs = 0"), "fit.epochs"),
        (CONFIG.replace("epochs = 12", "epoch = 1"), "fit.epoch"),
        (CONFIG.replace('kind = "events"', 'kind = "kafka"'), "data"),
        (CONFIG + "\n[split]\nexcluded = [1]\n", "share a residue"),
        ("name = ", "not TOML"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(tmp_path / "nowhere.toml")


SEQUENCES = """
name = "tiny"

[data]
kind = "sequences"
file = "sequences.txt"

[split]
kind = "leave-one-out"

[model]
item_dim = 16
model_dim = 16
hidden_dim = 16
layers = 1

[fit]
epochs = 12
learning_rate = 0.02
window = 8
batch_events = 64
average = 0.9

[prior]
weight = 0.2
reach = 2
"""


def test_leaving_one_out_what_came_later_is_foretold_with_the_counted_transitions(tmp_path: Path) -> None:
    walks = [[f"i{(user * 5 + step) % 12:02d}" for step in range(9)] for user in range(30)]
    (tmp_path / "sequences.txt").write_text(
        "".join(f"u{user} {' '.join(walk[:-1])}\n" for user, walk in enumerate(walks))
    )
    (tmp_path / "targets.txt").write_text("".join(f"u{user} {walk[-1]}\n" for user, walk in enumerate(walks)))
    (tmp_path / "train.toml").write_text(SEQUENCES)
    store = content_store(tmp_path)
    card = run_training(tmp_path / "train.toml", tmp_path / "1", logs_dir=tmp_path, store=store, console=QUIET)
    assert card.actions == ()
    assert not card.config.uses_time
    assert card.config.prior is not None
    assert card.state_bytes_per_user == 4 * (16 + 16 + 2)
    assert card.evaluation is not None
    assert card.evaluation.users == 30
    again = run_evaluation(
        tmp_path / "1", tmp_path / "train.toml", out_dir=tmp_path / "now", store=store, console=QUIET
    )
    assert again == card.evaluation
    later = run_evaluation(
        tmp_path / "1",
        tmp_path / "train.toml",
        out_dir=tmp_path / "later",
        targets=tmp_path / "targets.txt",
        store=store,
        console=QUIET,
    )
    assert later.metrics["HR@1"].value > 0.9
    assert later.protocol != again.protocol


def test_targets_are_refused_for_data_that_has_times(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.kind is 'events'"):
        run_evaluation(world / "1", world / "train.toml", targets=world / "none", store=content_store(world))
