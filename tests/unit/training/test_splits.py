import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.training.data_config import AnySplit, ColdItems, Folds, LeaveOneOut, UserSplit
from nextact_server.training.sequences import residue
from nextact_server.training.splits import Rows, Shown, Split, describe, split

LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=30)
ONE_OUT = LeaveOneOut(kind="leave-one-out")
COLD = ColdItems(kind="cold-items", part=0.3)


def rows(lengths: list[int], targets: list[bool] | None = None) -> Rows:
    """Users u0, u1, ... with so many events each, on seven items in turn.

    `targets` says whose last one came after the end of the data.
    """
    starts = np.append(0, np.cumsum(lengths))
    is_target = np.zeros(starts[-1], dtype=np.bool_)
    for user, has in enumerate(targets or []):
        is_target[starts[user + 1] - 1] = has
    return Rows(tuple(f"u{number}" for number in range(len(lengths))), starts, is_target, np.arange(starts[-1]) % 7)


def foretold(whole: Rows, shown: Shown | None) -> set[int]:
    """Return the rows that are foretold: those shown from `first` on, or of them those wanted."""
    if shown is None:
        return set()
    first = np.repeat(shown.first, whole.lengths)
    wanted = shown.rows if shown.wanted is None else shown.rows & shown.wanted
    return set(np.flatnonzero(wanted & (np.arange(len(first)) >= first)).tolist())


def tried(settings: AnySplit, whole: Rows, fold: int = 0) -> Split | None:
    """Return the split, or None where nobody is left."""
    try:
        return split(settings, whole, fold)
    except ValueError:
        return None


@given(LENGTHS, st.sampled_from([UserSplit(modulus=3), ONE_OUT, COLD, Folds(kind="folds", folds=3)]))
def test_nothing_that_is_foretold_was_trained_on(lengths: list[int], settings: AnySplit) -> None:
    whole = rows(lengths)
    parts = tried(settings, whole)
    if parts is None:
        return
    train, first_fit = set(np.flatnonzero(parts.train).tolist()), set(np.flatnonzero(parts.first_fit).tolist())
    assert first_fit <= train
    assert not foretold(whole, parts.held_out) & train
    assert not foretold(whole, parts.validation) & first_fit
    assert not np.repeat(np.isin(whole.users, parts.excluded_users), whole.lengths)[parts.train].any()


@given(LENGTHS, st.sampled_from([UserSplit(modulus=3), ONE_OUT, COLD, Folds(kind="folds", folds=3)]))
def test_all_that_is_shown_before_is_history(lengths: list[int], settings: AnySplit) -> None:
    whole = rows(lengths)
    parts = tried(settings, whole)
    for shown in (parts.validation, parts.held_out) if parts else ():
        if shown is not None:
            before = np.arange(whole.starts[-1]) < np.repeat(shown.first, whole.lengths)
            users = np.repeat(np.logical_or.reduceat(shown.rows, whole.starts[:-1]), whole.lengths)
            assert (shown.rows[before & users]).all()


def test_users_are_parted_by_residue() -> None:
    whole = rows([5] * 40)
    parts = split(UserSplit(modulus=4, excluded=(0,), validation=(1,), judged_part=0.4), whole)
    user_of = np.repeat(whole.users, 5)
    assert {residue(user, 4) for user in user_of[parts.train]} == {1, 2, 3}
    assert {residue(user, 4) for user in user_of[parts.first_fit]} == {2, 3}
    assert parts.excluded_users == tuple(sorted(user for user in whole.users if residue(user, 4) == 0))
    assert parts.held_out is not None
    assert {residue(user, 4) for user in user_of[parts.held_out.rows]} == {0}
    assert (whole.starts[1:] - parts.held_out.first == 2).all()


def test_the_last_event_is_judged_however_small_the_part() -> None:
    parts = split(UserSplit(modulus=2, excluded=(0,), validation=(), judged_part=0.01), rows([1, 9] * 6))
    assert parts.validation is None
    assert parts.held_out is not None
    assert (parts.held_out.first == rows([1, 9] * 6).starts[1:] - 1).all()


def test_one_out_is_the_last_of_everyone_who_has_two() -> None:
    whole = rows([3, 1, 2])
    parts = split(ONE_OUT, whole)
    assert np.flatnonzero(parts.train).tolist() == [0, 1, 3, 4], "who has one event is trained on, not judged"
    assert foretold(whole, parts.validation) == {2, 5}
    assert parts.validation is not None
    assert parts.validation.rows.all()
    assert parts.held_out is None
    assert parts.excluded_users == ()


def test_one_out_with_targets_judges_what_came_after_the_file() -> None:
    whole = rows([4, 2, 2], targets=[True, True, False])
    parts = split(ONE_OUT, whole)
    assert np.flatnonzero(parts.train).tolist() == [0, 1, 4, 6]
    assert foretold(whole, parts.validation) == {2, 7}
    assert foretold(whole, parts.held_out) == {3, 5}
    assert parts.held_out is not None
    assert parts.held_out.rows.all(), "the validation item is history of the target"


@given(st.integers(5, 60), st.integers(2, 5), st.integers(0, 9))
def test_every_user_is_judged_in_one_fold_from_the_second_event_on(users: int, folds: int, seed: int) -> None:
    whole = rows([3] * users)
    settings = Folds(kind="folds", folds=folds, seed=seed, validation=0.1)
    parts = [split(settings, whole, fold) for fold in range(folds)]
    judged = [foretold(whole, part.held_out) for part in parts]
    assert sorted(row for rows_of_fold in judged for row in rows_of_fold) == [
        row for row in range(3 * users) if row % 3
    ]
    sizes = {len(part.excluded_users) for part in parts}
    assert max(sizes) - min(sizes) <= 1
    for part in parts:
        assert part.train.sum() > part.first_fit.sum()
        assert foretold(whole, part.validation) <= set(np.flatnonzero(part.train).tolist())


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_users() -> None:
    whole = rows([2] * 50)
    turned = Rows(whole.users[::-1], whole.starts, whole.is_target, whole.item)
    settings = Folds(kind="folds", seed=3)
    assert split(settings, whole, 1).excluded_users == split(settings, turned, 1).excluded_users
    other = Folds(kind="folds", seed=4)
    assert split(settings, whole, 1).excluded_users != split(other, whole, 1).excluded_users


@pytest.mark.parametrize(
    ("settings", "fold", "said"),
    [
        (UserSplit(), 1, "fold 1 was asked for"),
        (Folds(kind="folds", folds=3), 3, "fold 3 was asked for, but split has 3"),
        (Folds(kind="folds", folds=3), -1, "fold -1"),
        (UserSplit(modulus=2, excluded=(0,), validation=(1,)), 0, "not one is left to train on"),
        (Folds(kind="folds", folds=2), 0, "not one is left to train on"),
        (ONE_OUT, 0, "no user has two events"),
    ],
)
def test_a_split_that_leaves_nobody_is_refused(settings: AnySplit, fold: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split(settings, rows([1, 1]), fold)


def test_the_split_can_be_told() -> None:
    assert "5 folds" in describe(Folds(kind="folds"))
    assert "leave one out" in describe(ONE_OUT)
    assert describe(UserSplit(), refit=True).endswith(", then trained on")


def test_every_event_on_a_cold_item_is_foretold_and_none_is_trained_on() -> None:
    whole = rows([9, 1, 4, 7])
    parts = split(COLD, whole)
    assert parts.cold is not None
    assert len(parts.cold) == 2
    is_cold = np.isin(whole.item, parts.cold)
    assert (parts.train == ~is_cold).all()
    assert foretold(whole, parts.held_out) == set(np.flatnonzero(is_cold).tolist())
    assert parts.held_out is not None
    assert parts.held_out.rows.all()
    assert (parts.held_out.first == whole.starts[:-1]).all()


def test_the_seed_decides_which_items_are_cold() -> None:
    whole = rows([9, 9, 9])
    drawn = {tuple(split(COLD.model_copy(update={"seed": seed}), whole).cold.tolist()) for seed in range(9)}
    assert len(drawn) > 1
    again = split(COLD, whole).cold
    assert again is not None
    assert again.tolist() == split(COLD, whole).cold.tolist()


def test_a_part_that_is_no_item_is_refused() -> None:
    with pytest.raises(ValueError, match=r"split.part 0.05 of 7 items is 0"):
        split(ColdItems(kind="cold-items"), rows([9, 9]))
