"""From columns to an Arrival: keys, codes and faults of all events at once."""

import numpy as np
import pyarrow as pa
import pytest

from nextact_server.events.arrival import UNKNOWN_ACTION, arrive, refused, with_content
from nextact_server.events.batch import EventBatch
from nextact_server.events.call import Arrival, Call, CallOptions
from nextact_server.events.hashing import combine, hash_strings
from nextact_server.events.identity import user_keys
from nextact_server.events.status import Fault, Status
from nextact_server.events.validation import EventLimits

NOW = 1_700_000_000_000_000


def strings(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


def arrival(n: int = 2, **columns: object) -> Arrival:
    given = {"user_id": strings(*["u"] * n), "action": strings(*["view"] * n), **columns}
    batch = EventBatch(size=n, event_time=np.full(n, NOW), **given)
    return arrive(batch, [Call(0, n, CallOptions())], EventLimits(), {"view": 2, "buy": 3}, NOW)


def test_users_are_known_by_user_id_else_by_anonymous_id() -> None:
    got = arrival(3, user_id=strings("x", "", None), anonymous_id=strings("y", "x", "x"))
    wanted = user_keys(strings("x", "", ""), strings("y", "x", "x"))[0]
    assert got.user_key.tolist() == wanted.tolist()
    assert got.user_key[1].tolist() == got.user_key[2].tolist() != got.user_key[0].tolist()


def test_a_message_is_known_by_user_and_message_id() -> None:
    got = arrival(3, user_id=strings("a", "b", "a"), message_id=strings("m", "m", ""))
    assert got.message_key[:2].tolist() == combine(got.user_key[:2], hash_strings(strings("m", "m"))).tolist()
    assert len({tuple(key) for key in got.message_key.tolist()}) == 3
    assert got.derived.tolist() == [False, False, True]


@pytest.mark.parametrize("items", [("i", "", None), None])
def test_events_without_an_item_are_told_apart(items: tuple[str | None, ...] | None) -> None:
    got = arrival(3, item_id=None if items is None else strings(*items))
    assert got.has_item.tolist() == [items is not None, False, False]
    if items:
        assert got.item_key[0].tolist() == hash_strings(strings("i"))[0].tolist()


def test_actions_the_model_does_not_know_are_unknown_and_valid() -> None:
    got = arrival(4, action=strings("buy", "never-seen", "view", None))
    assert got.action.tolist() == [3, UNKNOWN_ACTION, 2, UNKNOWN_ACTION]
    assert got.valid.tolist() == [True, True, True, False]


def test_an_invalid_event_still_has_its_user_unless_that_is_what_is_wrong() -> None:
    got = arrival(4, user_id=strings("u", "", "x" * 300, "u"), action=strings("", "view", "view", "view"))
    assert got.valid.tolist() == [False, False, False, True]
    assert got.identified.tolist() == [True, False, False, True]
    assert {row: fault.field for row, fault in got.faults.items()} == {0: "action", 1: "user_id", 2: "user_id"}


def test_content_is_laid_beside_the_rows_that_bring_it() -> None:
    plain = arrival(3)
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    got = with_content(plain, np.array([0, 2]), np.array([[1] * 16, [2] * 16], np.uint8), vectors)
    assert got.content_rows.tolist() == [0, 2]
    assert got.content_hash[:, 0].tolist() == [1, 0, 2]
    np.testing.assert_array_equal(got.content, vectors)
    assert not plain.content_hash.any(), "the arrival it was made of is as it was"


def test_events_found_at_fault_later_are_refused_and_others_keep_their_faults() -> None:
    plain = arrival(3, action=strings("", "view", "view"))
    got = refused(plain, {1: Fault("user_id", "too many", Status.OVERLOADED)})
    assert got.valid.tolist() == [False, False, True]
    assert got.identified.tolist() == [True, True, True]
    assert [got.faults[row].status for row in (0, 1)] == [Status.INVALID, Status.OVERLOADED]
    assert plain.valid.tolist() == [False, True, True]
    assert refused(plain, {}) is plain


def test_no_events_are_an_arrival_too() -> None:
    got = arrival(0)
    assert got.valid.tolist() == []
    assert got.user_key.shape == got.message_key.shape == got.item_key.shape == (0, 2)
