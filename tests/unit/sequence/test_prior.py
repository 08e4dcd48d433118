"""Counted transitions in the scores: the mixture against its formula, and what states remember for it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.sequence.config import FIRST_ITEM, PriorConfig
from nextact_server.sequence.prior import Prior
from nextact_server.sequence.recent import remember

ITEMS = FIRST_ITEM + 6


def table(successors: dict[int, dict[int, float]], *, weight: float = 0.3, decay: float = 0.5, reach: int = 3) -> Prior:
    rows = [successors.get(row, {}) for row in range(ITEMS)]
    prior = Prior(PriorConfig(weight, decay, reach, sum(map(len, rows))), ITEMS)
    prior.starts.copy_(torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()]))
    prior.items.copy_(torch.tensor([item for row in rows for item in row], dtype=torch.int32))
    prior.shares.copy_(torch.tensor([share for row in rows for share in row.values()]))
    prior.check()
    return prior


successors = st.dictionaries(
    st.integers(FIRST_ITEM, ITEMS - 1),
    st.lists(st.integers(FIRST_ITEM, ITEMS - 1), min_size=1, max_size=4, unique=True).map(
        lambda items: dict.fromkeys(items, 1.0 / len(items))
    ),
)


@given(
    rows=successors,
    recent=st.lists(
        st.lists(st.sampled_from([0, *range(FIRST_ITEM, ITEMS)]), min_size=3, max_size=3), min_size=1, max_size=4
    ),
    removed=st.sets(st.integers(FIRST_ITEM, ITEMS - 1), max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_the_scores_are_the_log_of_the_mixture(
    rows: dict[int, dict[int, float]], recent: list[list[int]], removed: set[int]
) -> None:
    prior = table(rows)
    logits = torch.randn(len(recent), ITEMS)
    logits[:, :FIRST_ITEM] = -torch.inf
    logits[:, list(removed)] = -torch.inf
    scores = prior.mix(logits.clone(), torch.tensor(recent).float())
    softmax = torch.softmax(logits, dim=1)
    for user, last in enumerate(recent):
        weights = {age: 0.5**age for age, item in enumerate(last) if rows.get(item)}
        counted = torch.zeros(ITEMS)
        for age, weight in weights.items():
            for item, share in rows[last[age]].items():
                counted[item] += weight / sum(weights.values()) * share
        part = prior.config.weight if weights else 0.0
        wanted = (1 - part) * softmax[user] + part * counted
        wanted[torch.isneginf(logits[user])] = 0.0
        torch.testing.assert_close(scores[user].exp(), wanted, rtol=1e-5, atol=1e-6)


def test_columns_place_vocabulary_rows_anywhere_and_drop_those_without_one() -> None:
    prior = table({3: {4: 0.5, 5: 0.5}})
    columns = torch.full((ITEMS,), -1)
    columns[5] = 0
    scores = prior.mix(torch.zeros(1, 2), torch.tensor([[3.0, 0.0, 0.0]]), columns)
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.35 + 0.15, 0.35]]))


def test_a_user_to_whom_nothing_is_offered_gets_no_nan() -> None:
    prior = table({3: {4: 1.0}})
    scores = prior.mix(torch.full((1, ITEMS), -torch.inf), torch.tensor([[3.0, 0.0, 0.0]]))
    assert torch.isneginf(scores).all()


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda prior: prior.starts.fill_(9), "prior.starts"),
        (lambda prior: prior.items.fill_(0), "prior.items"),
        (lambda prior: prior.items.fill_(ITEMS), "prior.items"),
        (lambda prior: prior.shares.fill_(math.nan), "prior.shares"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(break_it: object, named: str) -> None:
    prior = table({3: {4: 1.0}})
    break_it(prior)  # type: ignore[operator]
    with pytest.raises(ValueError, match=named):
        prior.check()


@given(
    lanes=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=6), min_size=1, max_size=4),
    reach=st.integers(1, 4),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_states_remember_the_last_known_items_after_any_event(
    lanes: list[list[int]], reach: int, data: st.DataObject
) -> None:
    before = [data.draw(st.lists(st.integers(FIRST_ITEM, ITEMS - 1), min_size=0, max_size=reach)) for _ in lanes]
    told = torch.tensor([(past + [0] * reach)[:reach] for past in before]).float()
    ends = torch.tensor([0, *torch.tensor([len(lane) for lane in lanes]).cumsum(0).tolist()])
    vocab = torch.tensor([item for lane in lanes for item in lane], dtype=torch.int64)
    recent = remember(told, vocab, ends)
    for lane, items in enumerate(lanes):
        for count in range(len(items) + 1):
            newest_first = [item for item in items[:count] if item >= FIRST_ITEM][::-1]
            wanted = (newest_first + told[lane].int().tolist())[:reach]
            assert recent.at(torch.tensor([lane]), torch.tensor([count]))[0].int().tolist() == wanted
