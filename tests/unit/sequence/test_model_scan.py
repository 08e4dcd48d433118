import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.sequence.config import CellName, PriorConfig, SequenceConfig
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.config import ModelSettings, PriorSettings

CELLS: tuple[CellName, ...] = ("gru", "lstm", "lru", "gated", "sasrec")


def build(cell: CellName, hidden: int = 24) -> SequenceModel:
    torch.manual_seed(3)
    config = SequenceConfig(
        cell=cell,
        actions=("view", "buy"),
        n_items=7,
        time_dim=6,
        item_dim=8,
        hidden_dim=hidden,
        content_dim=12,
        layers=1 if cell in ("gru", "lstm") else 2,
        model_dim=16,
        window=5,
    )
    return SequenceModel(config).eval().requires_grad_(False)


def random_state(model: SequenceModel, users: int) -> dict[str, torch.Tensor]:
    state = {name: torch.rand(users, *shape) * 2 - 1 for name, shape in model.state_spec().items()}
    if "count" in state:  # of events in a window, so not any number
        state["count"] = torch.randint(0, model.config.window + 1, (users, 1)).float()
        empty = torch.arange(model.config.window) < model.config.window - state["count"]
        state["window"][empty] = 0.0
    return state


def one_by_one(
    model: SequenceModel, x: torch.Tensor, lengths: list[int], state: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    hidden, ends, row = [], [], 0
    for user, length in enumerate(lengths):
        own = {name: tensor[user : user + 1] for name, tensor in state.items()}
        for _ in range(length):
            out, own = model.scan(x[row : row + 1], torch.tensor([1]), own)
            hidden.append(out)
            row += 1
        ends.append(own)
    outputs = torch.cat(hidden) if hidden else torch.zeros(0, model.config.output_dim)
    return outputs, {name: torch.cat([end[name] for end in ends]) for name in state}


@pytest.mark.parametrize("cell", CELLS)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_a_scan_equals_one_step_per_event(cell: CellName, lengths: list[int]) -> None:
    model = build(cell)
    x = torch.randn(sum(lengths), model.config.input_dim)
    state = random_state(model, len(lengths))
    before = {name: tensor.clone() for name, tensor in state.items()}

    hidden, end = model.scan(x, torch.tensor(lengths), state)
    wanted_hidden, wanted_end = one_by_one(model, x, lengths, state)

    torch.testing.assert_close(hidden, wanted_hidden, rtol=0, atol=1e-5)
    for name, wanted in wanted_end.items():
        torch.testing.assert_close(end[name], wanted, rtol=0, atol=1e-5)
        assert torch.equal(state[name], before[name]), "a scan must not change the state it was given"


@pytest.mark.parametrize("cell", CELLS)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_history_may_be_cut_anywhere(cell: CellName, lengths: list[int], data: st.DataObject) -> None:
    model = build(cell)
    rows = [torch.randn(length, model.config.input_dim) for length in lengths]
    heads = [data.draw(st.integers(0, length)) for length in lengths]
    start = model.initial_state(len(lengths))

    _, whole = model.scan(torch.cat(rows), torch.tensor(lengths), start)
    first = torch.cat([row[:head] for row, head in zip(rows, heads, strict=True)])
    rest = torch.cat([row[head:] for row, head in zip(rows, heads, strict=True)])
    tails = [length - head for length, head in zip(lengths, heads, strict=True)]
    _, middle = model.scan(first, torch.tensor(heads), start)
    _, end = model.scan(rest, torch.tensor(tails), middle)

    for name, wanted in whole.items():
        torch.testing.assert_close(end[name], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_output_is_what_the_state_says(cell: CellName) -> None:
    model = build(cell)
    hidden, end = model.scan(torch.randn(7, model.config.input_dim), torch.tensor([3, 4]), model.initial_state(2))
    assert torch.equal(model.hidden(end), hidden[[2, 6]])


@pytest.mark.parametrize("cell", CELLS)
def test_users_do_not_touch_each_other(cell: CellName) -> None:
    model = build(cell)
    x = torch.randn(9, model.config.input_dim)
    state = random_state(model, 3)
    _, together = model.scan(x, torch.tensor([2, 3, 4]), state)
    changed = x.clone()
    changed[2:5] = 1e3
    _, beside = model.scan(changed, torch.tensor([2, 3, 4]), state)
    for name, tensor in together.items():
        torch.testing.assert_close(tensor[[0, 2]], beside[name][[0, 2]], rtol=0, atol=1e-6)
        assert name == "count" or not torch.allclose(tensor[1], beside[name][1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_hundred_thousand_events_leave_a_finite_state(cell: CellName) -> None:
    model = build(cell, hidden=8)
    count = 100_000
    generator = torch.Generator().manual_seed(0)
    item = torch.randint(0, model.config.n_items, (count,), generator=generator)
    nothing = torch.zeros(count, model.config.content_dim)
    time = torch.zeros(count, 6)  # every event at the same moment
    absent = torch.zeros(count, dtype=torch.bool)
    x = model.inputs(model.item_vectors(item, nothing, absent), item, item % 4, time, nothing, absent)
    hidden, end = model.scan(x, torch.tensor([count]), model.initial_state(1))
    assert torch.isfinite(hidden).all()
    assert all(torch.isfinite(tensor).all() for tensor in end.values())
    assert torch.isfinite(model.query(hidden[-1:])).all()


@pytest.mark.parametrize("cell", CELLS)
def test_no_events_change_nothing(cell: CellName) -> None:
    model = build(cell)
    state = random_state(model, 2)
    hidden, end = model.scan(torch.zeros(0, model.config.input_dim), torch.tensor([0, 0]), state)
    assert hidden.shape == (0, model.config.output_dim)
    assert all(torch.equal(end[name], tensor) for name, tensor in state.items())


def test_a_state_of_the_default_width_fits_two_kibibytes() -> None:
    prior = PriorSettings()
    shape = SequenceConfig(
        actions=("view", "buy"),
        n_items=7,
        time_dim=6,
        prior=PriorConfig(prior.weight, prior.decay, prior.reach, entries=0),
        **ModelSettings().model_dump(),
    )
    spec = SequenceModel(shape).state_spec()
    assert sum(4 * torch.Size(tensor).numel() for tensor in spec.values()) <= 2048
