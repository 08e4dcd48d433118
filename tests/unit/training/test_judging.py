import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import DIM, DrawnScorer, catalogue_of, histories, sequences_of

from nextact_server.sequence.config import (
    FIRST_ACTION,
    FIRST_ITEM,
    UNKNOWN_ACTION,
    UNKNOWN_ITEM,
    CellName,
    SequenceConfig,
)
from nextact_server.sequence.model import SequenceModel
from nextact_server.training.config import PriorSettings
from nextact_server.training.history import last_items, owners, runs, seen_before
from nextact_server.training.judging import judge
from nextact_server.training.metrics import UNRANKED
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import ModelScorer, event_inputs
from nextact_server.training.sequences import ABSENT, Sequences
from nextact_server.training.transitions import build_prior

ITEMS = 7


def judged_ends(sequences: Sequences, part: float) -> Judged:
    return Judged(sequences, sequences.starts[1:] - np.ceil(sequences.lengths * part).astype(np.int64))


@given(histories(ITEMS), st.floats(0.0, 1.0), st.booleans())
def test_ranks_are_those_of_one_event_after_another(told: list[list[int]], part: float, exclude_seen: bool) -> None:
    sequences = sequences_of(told)
    judged = judged_ends(sequences, part)
    scorer = DrawnScorer(ITEMS)
    rows, ranks = [], []
    for user, history in enumerate(told):
        for at in range(int(judged.first[user] - sequences.starts[user]), len(history)):
            target, seen = history[at], set(history[:at])
            if target == ABSENT:
                continue
            row = int(sequences.starts[user]) + at
            scores = scorer(sequences, np.array([row]), None).scores
            assert scores is not None
            offered = [item for item in range(ITEMS) if not (exclude_seen and item in seen)]
            others = [item for item in offered if item != target and scores[0, item] >= scores[0, target]]
            rows.append(row)
            ranks.append(len(others) if target in offered else UNRANKED)
    found = judge(scorer, judged, exclude_seen=exclude_seen)
    assert found.item_row.tolist() == rows
    assert found.rank.tolist() == ranks
    assert found.item_user.tolist() == owners(sequences, np.array(rows, dtype=np.int64)).tolist()


@given(histories(ITEMS), st.sets(st.integers(0, ITEMS - 1), min_size=1))
def test_only_what_is_wanted_is_foretold_among_what_is_offered(told: list[list[int]], offered: set[int]) -> None:
    sequences = sequences_of(told)
    among = np.isin(np.arange(ITEMS), list(offered))
    wanted = np.isin(sequences.item, list(offered))
    judged = Judged(sequences, sequences.starts[:-1], wanted, among)
    found = judge(DrawnScorer(ITEMS), judged, exclude_seen=False)
    assert found.item_row.tolist() == np.flatnonzero(wanted).tolist()
    if not len(found.item_row):
        return
    scores = DrawnScorer(ITEMS)(sequences, found.item_row, None).scores
    assert scores is not None
    for row, rank, drawn in zip(found.item_row, found.rank, scores, strict=True):
        target = sequences.item[row]
        assert rank == sum(drawn[item] >= drawn[target] for item in offered if item != target)


@given(histories(ITEMS), st.integers(1, 60))
def test_blocks_of_any_size_judge_the_same(told: list[list[int]], cells: int) -> None:
    sequences = sequences_of(told)
    judged = judged_ends(sequences, 0.7)
    whole = judge(DrawnScorer(ITEMS, 3), judged, exclude_seen=True)
    blocks = judge(DrawnScorer(ITEMS, 3), judged, exclude_seen=True, cells=cells)
    for name in ("item_row", "item_user", "rank", "action_row", "action_user", "action_log", "action"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))


@given(histories(ITEMS))
def test_what_was_seen_is_what_the_user_met_before(told: list[list[int]]) -> None:
    sequences = sequences_of(told)
    rows = np.arange(len(sequences.item))
    seen = seen_before(sequences, rows, ITEMS)
    last = last_items(sequences, rows, 3, sequences.item != ABSENT)
    row = 0
    for history in told:
        for at in range(len(history)):
            met = [item for item in history[:at] if item != ABSENT]
            assert set(np.flatnonzero(seen[row])) == set(met)
            assert last[row].tolist() == [*met[::-1], ABSENT, ABSENT, ABSENT][:3]
            row += 1


def test_users_without_events_own_no_row() -> None:
    sequences = sequences_of([[], [1], [], [2, 3], []])
    assert owners(sequences, np.arange(3)).tolist() == [1, 3, 3]
    assert seen_before(sequences, np.array([2]), 4).tolist() == [[False, False, True, False]]
    found = judge(DrawnScorer(4), Judged(sequences, sequences.starts[:-1]), exclude_seen=True)
    assert found.item_user.tolist() == [1, 3, 3]


def test_runs_are_put_after_one_another() -> None:
    numbers, which = runs(np.array([4, 9, 2]), np.array([6, 9, 5]))
    assert numbers.tolist() == [4, 5, 2, 3, 4]
    assert which.tolist() == [0, 0, 2, 2, 2]


def test_events_that_are_no_target_or_have_no_known_action_are_not_judged() -> None:
    sequences = sequences_of(
        [[0, 1, ABSENT]],
        actions=[[FIRST_ACTION, UNKNOWN_ACTION, FIRST_ACTION + 1]],
        targets=[[False, True, False]],
    )
    found = judge(DrawnScorer(ITEMS, 2), Judged(sequences, np.array([0])), exclude_seen=False)
    assert found.item_row.tolist() == [1]
    assert found.action_row.tolist() == [0, 2]
    assert found.action.tolist() == [0, 1]
    assert found.action_log.shape == (2, 2)


def test_nobody_judged_is_an_empty_judgement() -> None:
    sequences = sequences_of([[0, 1]])
    found = judge(DrawnScorer(ITEMS, 2), Judged(sequences, sequences.starts[1:]), exclude_seen=True)
    assert len(found.rank) == len(found.action) == len(found.action_hit) == 0


@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("cell", ["gru", "gated", "sasrec"])
@given(told=histories(ITEMS, longest=9), exclude_seen=st.booleans(), one_each=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_models_scores_are_those_of_event_by_event(
    cell: CellName, with_prior: bool, told: list[list[int]], exclude_seen: bool, one_each: bool
) -> None:
    sequences = sequences_of(told)
    vocab = np.array([FIRST_ITEM + 2, UNKNOWN_ITEM, *(FIRST_ITEM + row for row in (0, 1, 3, 4, 5))])
    torch.manual_seed(3)
    shape = SequenceConfig(
        cell, ("view", "buy"), FIRST_ITEM + 6, 6, item_dim=8, hidden_dim=8, content_dim=DIM, model_dim=8, window=4
    )
    model = SequenceModel(shape)
    if with_prior:
        settings_ = PriorSettings(weight=0.5, reach=2)
        model.add_prior(build_prior(sequences, vocab, shape.n_items, settings_))
    model.eval().requires_grad_(False)
    scorer = ModelScorer(model, catalogue_of(ITEMS), vocab)
    rows = sequences.starts[1:] - 1 if one_each else np.arange(len(sequences.item))
    removed = seen_before(sequences, rows, ITEMS) if exclude_seen else None
    found = scorer(sequences, rows, removed)
    assert found.scores is not None
    assert found.actions is not None

    index = torch.from_numpy(vocab)
    nothing = torch.zeros(ITEMS, DIM), torch.zeros(ITEMS, dtype=torch.bool)
    vectors, bias = model.item_vectors(index, *nothing), model.item_bias(index, *nothing)
    columns = torch.full((shape.n_items,), -1)
    columns[index[index >= FIRST_ITEM]] = torch.arange(ITEMS)[index >= FIRST_ITEM]
    for at, row in enumerate(rows.tolist()):
        state = model.initial_state(1)
        begin = int(sequences.starts[owners(sequences, np.array([row]))[0]])
        for past in range(begin, row):
            _, state = model.step(state, event_inputs(model, sequences, np.array([past]), index, vectors))
        hidden = model.hidden(state)
        met = [int(vocab[item]) for item in sequences.item[begin:row] if item != ABSENT and vocab[item] >= FIRST_ITEM]
        recent = torch.tensor([[*met[::-1], 0, 0][:2]], dtype=torch.float32)
        logits = model.query(hidden, recent) @ vectors.T + bias
        if removed is not None:
            logits[torch.from_numpy(removed[at])[None]] = -torch.inf
        wanted = model.log_scores(logits, recent, columns)[0]
        np.testing.assert_allclose(found.scores[at], wanted.numpy(), atol=1e-4)
        chances = model.action_logits(hidden).log_softmax(dim=1)[0]
        np.testing.assert_allclose(found.actions[at], chances.numpy(), atol=1e-4)
