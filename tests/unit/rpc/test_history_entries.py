"""A page of history as messages: what was sent comes back, with what the model was given beside it."""

import numpy as np
import pyarrow as pa
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.rpc.decode import microseconds
from nextact_server.rpc.history import entries, timestamp
from nextact_server.storage.seam import HISTORY_SCHEMA, NO_TIME, HistoryPage


@given(moment=st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
@settings(max_examples=100, deadline=None)
def test_a_moment_and_its_timestamp_are_the_same(moment: int) -> None:
    stamp = timestamp(moment)
    assert 0 <= stamp.nanos < 10**9
    assert microseconds(stamp.seconds, stamp.nanos) == moment


def test_events_come_back_as_they_were_sent() -> None:
    properties = Struct()
    properties.update({"colour": "red"})
    rows = [
        {"message_id": "1", "user_id": "u", "action": "view", "item_id": "i", "text": "t", "session_id": "s"}
        | {"anonymous_id": "v", "properties": properties.SerializeToString()},
        {"message_id": "2", "user_id": None, "anonymous_id": "v", "action": "buy"},
    ]
    filled = [{field.name: row.get(field.name) for field in HISTORY_SCHEMA} for row in rows]
    page = HistoryPage(
        status=np.array([1, 3], np.int8),
        applied=np.array([True, False]),
        event_time_us=np.array([1_500_000, 5]),
        effective_time_us=np.array([2_000_000, 2_000_000]),
        sent_at_us=np.array([7, NO_TIME]),
        received_us=np.array([0, 0]),
        content_hash=np.array([[1] * 16, [0] * 16], np.uint8),
        columns=pa.RecordBatch.from_pylist(filled, schema=HISTORY_SCHEMA),
        next_before=None,
    )
    first, second = entries(page)
    assert (first.event.user_id, first.event.item_id, first.event.text) == ("u", "i", "t")
    assert first.event.properties == properties
    assert (first.event.event_time.seconds, first.event.event_time.nanos) == (1, 500_000_000)
    assert first.event.sent_at.nanos == 7000
    assert first.effective_time.seconds == 2
    assert (first.applied, second.applied) == (True, False)
    assert first.content_hash == bytes([1] * 16)
    assert second.content_hash == b""
    assert not second.event.HasField("sent_at")
    assert not second.event.HasField("properties")
    assert (second.event.user_id, second.event.anonymous_id) == ("", "v")
