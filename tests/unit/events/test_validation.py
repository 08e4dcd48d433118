"""Which events may come in: every limit to the byte, and a reason that names field, value, limit and setting."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.events.batch import MISSING_TIME, EventBatch
from nextact_server.events.validation import EARLIEST_TIME, EventLimits, check

NOW = 1_700_000_000_000_000
LIMITS = EventLimits(id_bytes=8, action_bytes=6, text_bytes=10, image_bytes=12, properties_bytes=4, future_seconds=300)
BOUNDS = {
    "user_id": (8, "max_id_bytes"),
    "anonymous_id": (8, "max_id_bytes"),
    "message_id": (8, "max_id_bytes"),
    "item_id": (8, "max_id_bytes"),
    "session_id": (8, "max_id_bytes"),
    "action": (6, "max_action_bytes"),
    "text": (10, "max_text_bytes"),
    "image": (12, "max_image_bytes"),
    "properties": (4, "max_properties_bytes"),
}


def one(event_time: int = NOW, **fields: object) -> EventBatch:
    """A batch of one event, good but for what is given."""
    given = {"user_id": "u", "action": "view", **fields}
    kinds = {"image": pa.binary(), "properties": pa.binary()}
    columns = {name: pa.array([value], kinds.get(name, pa.string())) for name, value in given.items()}
    return EventBatch(size=1, event_time=np.array([event_time], np.int64), **columns)


def fault(batch: EventBatch) -> tuple[str, str] | None:
    valid, faults = check(batch, LIMITS, NOW)
    assert valid.tolist() == [not faults]
    return (faults[0].field, faults[0].reason) if faults else None


def test_a_plain_event_is_valid() -> None:
    assert fault(one()) is None


@pytest.mark.parametrize("field", BOUNDS)
def test_every_field_may_be_as_long_as_its_limit_and_no_byte_longer(field: str) -> None:
    limit, setting = BOUNDS[field]
    letter = b"x" if field in ("image", "properties") else "x"
    assert fault(one(**{field: letter * limit})) is None
    assert fault(one(**{field: letter * (limit + 1)})) == (
        field,
        f"{field} has {limit + 1} bytes; at most {limit} are allowed ({setting})",
    )


def test_limits_count_bytes_and_not_letters() -> None:
    assert fault(one(user_id="ü" * 4)) is None
    assert fault(one(user_id="ü" * 4 + "x")) is not None


@pytest.mark.parametrize("user", ["", None])
def test_an_event_of_nobody_is_refused(user: str | None) -> None:
    wanted = ("user_id", "user_id and anonymous_id are both empty; one is required")
    assert fault(one(user_id=user)) == wanted
    assert fault(one(user_id=user, anonymous_id="")) == wanted
    assert fault(one(user_id=user, anonymous_id="x")) is None


@pytest.mark.parametrize("action", ["", None])
def test_an_event_without_an_action_is_refused(action: str | None) -> None:
    assert fault(one(action=action)) == ("action", "action is empty; it is required")


def test_a_missing_time_is_refused() -> None:
    assert fault(one(MISSING_TIME)) == ("event_time", "event_time is missing; it is required")


def test_the_past_is_valid_from_the_first_moment_on() -> None:
    assert fault(one(EARLIEST_TIME)) is None
    assert fault(one(EARLIEST_TIME - 1)) == (
        "event_time",
        f"event_time is {EARLIEST_TIME - 1} us, before 0001-01-01",
    )


def test_the_future_is_valid_as_far_as_the_setting_says() -> None:
    assert fault(one(NOW + 300_000_000)) is None
    assert fault(one(NOW + 300_100_000)) == (
        "event_time",
        "event_time is 300.1 s ahead of the server's clock; at most 300 s are allowed (max_future_seconds)",
    )


@pytest.mark.parametrize("time", [2**63 - 1, MISSING_TIME + 1, -(2**62), 2**62])
def test_times_at_the_edge_of_what_is_counted_are_refused_without_overflow(time: int) -> None:
    with np.errstate(all="raise"):
        assert fault(one(time)) is not None


def test_a_column_that_did_not_come_is_empty() -> None:
    batch = EventBatch(size=2, event_time=np.array([NOW, NOW]))
    valid, faults = check(batch, LIMITS, NOW)
    assert valid.tolist() == [False, False]
    assert {fault.field for fault in faults.values()} == {"user_id"}


rows = st.tuples(
    st.sampled_from(["u", "", "too-long-id"]),
    st.sampled_from(["view", "", "too-long"]),
    st.sampled_from(["", "short", "far too long"]),
    st.sampled_from([NOW, MISSING_TIME, NOW + 10**12, EARLIEST_TIME - 1]),
)


@given(given_rows=st.lists(rows, max_size=10))
@settings(max_examples=60, deadline=None)
def test_a_bad_event_never_touches_its_neighbours(given_rows: list[tuple[str, str, str, int]]) -> None:
    columns = list(zip(*given_rows, strict=True)) or [(), (), (), ()]
    batch = EventBatch(
        size=len(given_rows),
        event_time=np.array(columns[3], np.int64),
        user_id=pa.array(columns[0], pa.string()),
        action=pa.array(columns[1], pa.string()),
        text=pa.array(columns[2], pa.string()),
    )
    valid, faults = check(batch, LIMITS, NOW)
    for row, (user, action, text, time) in enumerate(given_rows):
        alone = fault(one(time, user_id=user, action=action, text=text))
        assert bool(valid[row]) == (alone is None)
        assert (faults[row].field, faults[row].reason) == alone if alone else row not in faults
