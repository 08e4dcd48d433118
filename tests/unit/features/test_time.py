from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.features.time import TIME_DIM, time_features

INT64 = np.iinfo(np.int64)


def features(time: datetime, gap_s: float | None) -> np.ndarray:
    micros = int(time.timestamp() * 1_000_000)
    gap = -1 if gap_s is None else int(gap_s * 1_000_000)
    return time_features(np.array([micros]), np.array([gap]))[0]


def test_a_first_event_is_told_from_one_at_the_same_moment() -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    first, again = features(now, None), features(now, 0)
    assert (first[0], first[1]) == (0.0, 1.0)
    assert (again[0], again[1]) == (0.0, 0.0)


@pytest.mark.parametrize(("gap_s", "scaled"), [(1, 0.0693), (86_400, 1.1367), (365 * 86_400, 1.7267)])
def test_gaps_are_scaled_by_their_logarithm(gap_s: int, scaled: float) -> None:
    assert features(datetime(2024, 5, 1, tzinfo=UTC), gap_s)[0] == pytest.approx(scaled, abs=1e-4)


def test_hour_and_weekday_are_those_of_utc() -> None:
    # 6 May 2024 was a Monday, weekday 0; six o'clock is a quarter of the day.
    assert features(datetime(2024, 5, 6, 6, tzinfo=UTC), 1)[2:] == pytest.approx([1, 0, 0, 1], abs=1e-6)
    thursday = features(datetime(1970, 1, 1, tzinfo=UTC), 1)
    assert thursday[4:] == pytest.approx([np.sin(6 * np.pi / 7), np.cos(6 * np.pi / 7)], abs=1e-6)


@given(st.integers(-(10**15), 10**15))
def test_a_week_later_looks_the_same(time: int) -> None:
    week = 7 * 86_400 * 1_000_000
    both = time_features(np.array([time, time + week]), np.array([5, 5]))
    assert both[0] == pytest.approx(both[1], abs=1e-6)


@given(st.integers(INT64.min, INT64.max), st.integers(-1, INT64.max))
def test_no_time_makes_a_feature_that_is_not_finite(time: int, gap: int) -> None:
    row = time_features(np.array([time]), np.array([gap]))
    assert row.shape == (1, TIME_DIM)
    assert row.dtype == np.float32
    assert np.isfinite(row).all()
    assert np.abs(row).max() < 4


def test_no_events_give_no_rows() -> None:
    assert time_features(np.empty(0, np.int64), np.empty(0, np.int64)).shape == (0, TIME_DIM)
