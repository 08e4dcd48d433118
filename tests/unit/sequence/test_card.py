import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nextact_server.sequence.card import DataSource, ModelCard, ModelCardError, load_card, save_card
from nextact_server.sequence.checkpoint import WEIGHTS_FILE, CheckpointError, load_model, save_model, state_bytes
from nextact_server.sequence.config import SequenceConfig
from nextact_server.sequence.model import SequenceModel


def small_model() -> SequenceModel:
    torch.manual_seed(1)
    config = SequenceConfig(
        cell="lstm", actions=("view", "buy"), n_items=5, time_dim=6, item_dim=4, hidden_dim=8, content_dim=3
    )
    return SequenceModel(config)


def small_card(model: SequenceModel, **changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "next_action",
        "version": "3",
        "config": model.config,
        "items": ("b", "ä"),
        "item_counts": (4, 2),
        "exclude_seen_default": True,
        "state_bytes_per_user": state_bytes(model),
        "data": DataSource(name="tiny", sha256="00", events=6, users=2, licence="own data"),
        "split": "none",
        "tie_rule": "none",
        "seed": 1,
        "date": "2024-05-01",
        "encoders": {"text": "none"},
        "licences": {},
    }
    return ModelCard(**(fields | changes))


@pytest.fixture
def version(tmp_path: Path) -> Path:
    model = small_model()
    save_model(model, small_card(model), tmp_path)
    return tmp_path


def edit_card(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = version / "card.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def edit_weights(version: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = version / WEIGHTS_FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_version_comes_back_as_it_was_written(version: Path) -> None:
    model, card = load_model(version)
    original = small_model()
    assert card.items == ("b", "ä")
    assert card.actions == ("view", "buy")
    assert card.config == original.config
    assert not model.training
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_loading_leaves_the_callers_random_numbers_alone(version: Path) -> None:
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    load_model(version)
    assert torch.equal(torch.rand(3), wanted)


def test_a_card_is_written_and_read_unchanged(tmp_path: Path) -> None:
    card = small_card(small_model(), excluded_users=("7",), training_users=("1", "2"))
    save_card(card, tmp_path)
    assert load_card(tmp_path) == card


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda card: card.pop("items"), "items"),
        (lambda card: card["items"].append("c"), "n_items"),
        (lambda card: card["items"].__setitem__(1, "b"), "twice"),
        (lambda card: card["item_counts"].pop(), "item_counts"),
        (lambda card: card["config"].update(hidden_dim=0), "hidden_dim"),
        (lambda card: card["config"].update(actions=["view", "view"]), "actions"),
        (lambda card: card.update(surprise=1), "surprise"),
        (lambda card: card.update(excluded_users=["9"], training_users=["9"]), "'9'"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused_by_field(
    version: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit_card(version, change)
    with pytest.raises(ModelCardError, match=said) as caught:
        load_model(version)
    assert str(version / "card.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": 3}'])
def test_a_card_that_is_not_a_card_is_refused(version: Path, text: str) -> None:
    (version / "card.json").write_text(text)
    with pytest.raises(ModelCardError, match=r"card\.json"):
        load_model(version)


def test_a_missing_file_is_named(version: Path) -> None:
    (version / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_model(version)
    with pytest.raises(ModelCardError, match=r"card\.json"):
        load_model(version / "nowhere")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_refused(version: Path, kept: int) -> None:
    path = version / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_model(version)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("to_query.bias"), "'to_query.bias' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' is not part"),
        (lambda t: t.update({"item_embedding.weight": torch.zeros(5, 3)}), r"'item_embedding.weight' is \[5, 3\]"),
        (lambda t: t.update({"to_actions.weight": torch.zeros(3, 8)}), r"'to_actions.weight' is \[3, 8\]"),
        (lambda t: t.update({"to_query.bias": torch.zeros(4).double()}), "float64"),
        (lambda t: t["to_query.bias"].fill_(torch.nan), "'to_query.bias' holds values that are not finite"),
        (lambda t: t["to_query.bias"].add_(1), "sha256"),
    ],
)
def test_weights_that_do_not_fit_their_card_are_refused_by_tensor(
    version: Path, change: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    edit_weights(version, change)
    with pytest.raises(CheckpointError, match=said):
        load_model(version)


def test_other_actions_than_the_weights_have_are_refused(version: Path) -> None:
    edit_card(version, lambda card: card["config"]["actions"].append("share"))
    with pytest.raises(CheckpointError, match="action_embedding"):
        load_model(version)


def test_a_card_wrong_about_the_state_is_refused(version: Path) -> None:
    edit_card(version, lambda card: card.update(state_bytes_per_user=1))
    with pytest.raises(CheckpointError, match="64 bytes"):
        load_model(version)
