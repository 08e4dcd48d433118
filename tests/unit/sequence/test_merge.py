"""Many arrivals as one batch: whose row is whose, and what each brought."""

import numpy as np
from small_model import content_vector
from stage_house import NOW, Asked, Sent, arrival_of, batch_of

from nextact_server.events.arrival import arrive
from nextact_server.events.batch import MISSING_TIME, EventBatch
from nextact_server.events.call import Call, CallOptions
from nextact_server.events.validation import EventLimits
from nextact_server.sequence.merge import merge
from nextact_server.storage.seam import HISTORY_SCHEMA


def test_rows_calls_and_content_are_numbered_through_all_arrivals() -> None:
    arrivals = [
        arrival_of([Asked((Sent("a", "1"), Sent("b", "2", content=4)))]),
        arrival_of([Asked(()), Asked((Sent("c", "3", content=5),)), Asked((Sent("d", "4"),))]),
    ]
    merged = merge(arrivals, [[True], [True] * 3])
    assert len(merged) == 4
    assert merged.offsets.tolist() == [0, 2, 4]
    assert merged.first_call.tolist() == [0, 1, 4]
    assert merged.call.tolist() == [0, 0, 2, 3]
    assert merged.content_rows.tolist() == [1, 2]
    np.testing.assert_array_equal(merged.content, np.stack([content_vector(4), content_vector(5)]))
    assert merged.content_hash[:, 0].tolist() == [0, 4, 5, 0]


def test_rows_of_calls_that_are_gone_are_neither_valid_nor_identified() -> None:
    arrivals = [
        arrival_of([Asked((Sent("a", "1"),)), Asked((Sent("b", "2"), Sent("", "3")))]),
        arrival_of([Asked((Sent(),))]),
    ]
    assert merge(arrivals, [[True, True], [True]]).identified.tolist() == [True, True, False, True]
    merged = merge(arrivals, [[True, False], [True]])
    assert merged.valid.tolist() == merged.identified.tolist() == [True, False, False, True]
    assert arrivals[0].valid.tolist() == [True, True, False], "the arrival itself is as it was"


def test_the_raw_columns_are_those_that_came_with_nulls_where_a_column_did_not_come() -> None:
    whole = batch_of([Sent("a", "1", item="t01"), Sent("b", "", item="t02")])
    bare = EventBatch(size=1, event_time=np.array([NOW]), user_id=whole.user_id[:1], action=whole.action[:1])
    arrivals = [arrive(batch, [Call(0, batch.size, CallOptions())], EventLimits(), {}, NOW) for batch in (whole, bare)]
    merged = merge(arrivals, [[True], [True]])
    everything = merged.raw(np.arange(3))
    assert everything.schema == HISTORY_SCHEMA
    assert everything.column("item_id").to_pylist() == ["t01", "t02", None]
    assert everything.column("user_id").to_pylist() == ["a", "b", "a"]
    ids = everything.column("message_id").to_pylist()
    assert ids[0] == "1"
    assert [len(name) for name in ids[1:]] == [32, 32]
    assert merged.raw(np.array([1, 2])).to_pylist() == everything.slice(1).to_pylist()
    assert merged.raw(np.zeros(0, np.int64)).num_rows == 0


def test_arrival_and_sending_times_are_those_of_each_row() -> None:
    first, second = arrival_of([Asked((Sent(), Sent()))], now_us=5), arrival_of([Asked((Sent(),))], now_us=9)
    merged = merge([first, second], [[True], [True]])
    assert merged.received(np.array([0, 2])).tolist() == [5, 9]
    assert merged.sent_at(np.array([0, 2])).tolist() == [MISSING_TIME] * 2
