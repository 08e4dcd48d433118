import numpy as np
import pytest
from made_up import sequences_of

from nextact_server.training.bootstrap import Resampling
from nextact_server.training.metrics import Float64, Int64
from nextact_server.training.outcomes import Events
from nextact_server.training.slices import GAP, HISTORY, by_gap, by_history, slices

SECOND = 10**6
DAY = 86_400 * SECOND


@pytest.mark.parametrize(
    ("before", "name"),
    [
        *((0, "none"), (1, "1-5"), (5, "1-5"), (6, "6-20"), (20, "6-20"), (21, "21-50"), (50, "21-50")),
        *((51, "51-200"), (200, "51-200"), (201, "over 200"), (10**6, "over 200")),
    ],
)
def test_events_are_told_apart_by_how_many_came_before(before: int, name: str) -> None:
    labels, names = by_history(np.array([before]))
    assert names[labels[0]] == name


@pytest.mark.parametrize(
    ("gap", "name"),
    [
        *((-1, "no time"), (0, "under a minute"), (60 * SECOND - 1, "under a minute"), (60 * SECOND, "under an hour")),
        *((3_600 * SECOND, "under a day"), (DAY, "under a week"), (7 * DAY - 1, "under a week")),
        (7 * DAY, "a week or longer"),
    ],
)
def test_events_are_told_apart_by_the_time_since_the_last(gap: int, name: str) -> None:
    labels, names = by_gap(np.array([gap]))
    assert names[labels[0]] == name


def test_each_part_is_judged_by_its_own_events_and_users() -> None:
    sequences = sequences_of([[0] * 8, [0, 1]], gaps=[[-1, 0, 0, 0, 0, 0, 0, 9 * DAY], [-1, 5]])
    hit = np.arange(10.0)

    def figures(resampling: Resampling, chosen: Int64) -> dict[str, dict[str, Float64]]:
        totals = resampling.totals(np.column_stack((np.ones(len(chosen)), hit[chosen])))
        return {"model": {"x": totals[:, 1] / totals[:, 0]}}

    found = slices(Events.of(sequences, np.arange(10)), figures)
    assert {name: (part.events, part.users) for name, part in found[HISTORY].items()} == {
        "none": (2, 2),
        "1-5": (6, 2),
        "6-20": (2, 1),
    }
    assert found[HISTORY]["6-20"].figures["model"]["x"].value == 6.5
    assert {name: part.events for name, part in found[GAP].items()} == {
        "no time": 2,
        "under a minute": 7,
        "a week or longer": 1,
    }


def test_data_without_times_have_no_slices_by_time() -> None:
    found = slices(Events.of(sequences_of([[0, 1]]), np.array([1])), lambda resampling, chosen: {"model": {}})
    assert list(found) == [HISTORY]


def test_users_of_different_folds_are_different_users() -> None:
    one = Events(np.array([0, 0, 2]), np.array([1, 2, 1]), np.array([-1, 5, 6]))
    both = Events.joined([one, one])
    assert len(np.unique(both.user)) == 4
    assert both.before.tolist() == [1, 2, 1, 1, 2, 1]
    assert both.gap_us.tolist() == [-1, 5, 6, -1, 5, 6]
