import pytest
import torch

from nextact_server.sequence.config import FIRST_ITEM, NO_ITEM, PADDING_ITEM, UNKNOWN_ITEM, SequenceConfig
from nextact_server.sequence.model import SequenceModel

ACTIONS = ("view", "buy", "leave_a_note")


@pytest.fixture
def model() -> SequenceModel:
    torch.manual_seed(5)
    config = SequenceConfig(
        cell="gru", actions=ACTIONS, n_items=6, time_dim=6, item_dim=8, hidden_dim=16, content_dim=4
    )
    return SequenceModel(config).eval().requires_grad_(False)


def yes(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.bool)


def test_an_item_never_trained_on_is_its_content(model: SequenceModel) -> None:
    content = torch.randn(2, 4)
    unknown = torch.full((2,), UNKNOWN_ITEM)
    vectors = model.item_vectors(unknown, content, yes(2))
    torch.testing.assert_close(vectors, content @ model.item_content.weight.T)
    bias = model.item_bias(unknown, content, yes(2))
    assert bias[0] != bias[1], "its bias is estimated from its content"


def test_a_trained_item_is_its_id_and_its_content(model: SequenceModel) -> None:
    index = torch.tensor([FIRST_ITEM])
    content = torch.randn(1, 4)
    by_id = model.item_vectors(index, content, ~yes(1))
    torch.testing.assert_close(by_id, model.item_embedding.weight[FIRST_ITEM][None])
    both = model.item_vectors(index, content, yes(1))
    torch.testing.assert_close(both - by_id, model.item_vectors(torch.tensor([UNKNOWN_ITEM]), content, yes(1)))


@pytest.mark.parametrize("row", [PADDING_ITEM, UNKNOWN_ITEM, NO_ITEM])
def test_nothing_known_is_the_zero_vector(model: SequenceModel, row: int) -> None:
    assert not model.item_vectors(torch.tensor([row]), torch.ones(1, 4), ~yes(1)).any()


def test_what_a_row_without_content_holds_is_never_read(model: SequenceModel) -> None:
    index = torch.tensor([UNKNOWN_ITEM, FIRST_ITEM])
    rubbish = torch.full((2, 4), torch.nan)
    clean = torch.zeros(2, 4)
    assert torch.equal(model.item_vectors(index, rubbish, ~yes(2)), model.item_vectors(index, clean, ~yes(2)))
    assert torch.equal(model.item_bias(index, rubbish, ~yes(2)), model.item_bias(index, clean, ~yes(2)))
    action, time, vectors = torch.tensor([0, 1]), torch.zeros(2, 6), torch.zeros(2, 8)
    x = model.inputs(vectors, index, action, time, rubbish, ~yes(2))
    assert torch.equal(x, model.inputs(vectors, index, action, time, clean, ~yes(2)))


def test_unknown_everything_is_scored_with_finite_numbers(model: SequenceModel) -> None:
    nothing, absent = torch.zeros(1, 4), ~yes(1)
    item = torch.tensor([UNKNOWN_ITEM])
    x = model.inputs(
        model.item_vectors(item, nothing, absent), item, torch.tensor([1]), torch.zeros(1, 6), nothing, absent
    )
    hidden, state = model.scan(x, torch.tensor([1]), model.initial_state(1))
    score = model.query(hidden) @ model.item_vectors(item, nothing, absent).T + model.item_bias(item, nothing, absent)
    assert torch.isfinite(score).all()
    assert torch.isfinite(model.action_logits(model.hidden(state))).all()


def test_an_unknown_item_no_item_and_a_known_one_enter_differently(model: SequenceModel) -> None:
    index = torch.tensor([UNKNOWN_ITEM, NO_ITEM, FIRST_ITEM])
    same = torch.zeros(3, 4), ~yes(3)
    x = model.inputs(torch.zeros(3, 8), index, torch.full((3,), 2), torch.zeros(3, 6), *same)
    assert len(torch.unique(x, dim=0)) == 3


def test_a_user_without_events_is_foretold_from_the_initial_state(model: SequenceModel) -> None:
    hidden = model.initial_hidden()
    assert hidden.shape == (1, 16)
    assert torch.equal(hidden, model.hidden(model.initial_state(1)))
    assert model.action_logits(hidden).shape == (1, len(ACTIONS))
    assert model.query(hidden).shape == (1, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cell": "rnn"}, "cell is 'rnn'"),
        ({"actions": ("", "view")}, "actions"),
        ({"actions": ("view", "view")}, "actions"),
        ({"n_items": 2}, "n_items is 2"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_a_shape_no_model_can_have_is_refused_by_name(change: dict[str, object], said: str) -> None:
    good: dict[str, object] = {"cell": "gru", "actions": ACTIONS, "n_items": 6, "time_dim": 6}
    with pytest.raises(ValueError, match=said):
        SequenceConfig(**(good | change))  # type: ignore[arg-type]
