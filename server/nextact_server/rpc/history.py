"""A page of history as the contract's messages."""

from google.protobuf.timestamp_pb2 import Timestamp

from nextact.v1 import behavior_pb2 as pb
from nextact_server.storage.seam import NO_TIME, HistoryPage


def timestamp(microseconds: int) -> Timestamp:
    """A moment in microseconds as the contract's Timestamp."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def entries(page: HistoryPage) -> list[pb.HistoryEntry]:
    """The page's events, newest first."""
    columns = page.columns.to_pydict()
    made = []
    for at in range(len(page)):
        event = pb.Event(
            message_id=columns["message_id"][at] or "",
            user_id=columns["user_id"][at] or "",
            anonymous_id=columns["anonymous_id"][at] or "",
            action=columns["action"][at] or "",
            item_id=columns["item_id"][at] or "",
            session_id=columns["session_id"][at] or "",
            text=columns["text"][at] or "",
            event_time=timestamp(int(page.event_time_us[at])),
        )
        if page.sent_at_us[at] != NO_TIME:
            event.sent_at.CopyFrom(timestamp(int(page.sent_at_us[at])))
        if columns["properties"][at]:
            event.properties.ParseFromString(columns["properties"][at])
        content_hash = page.content_hash[at].tobytes()
        entry = pb.HistoryEntry(
            event=event,
            status=pb.EventStatus.Name(int(page.status[at])),
            applied=bool(page.applied[at]),
            effective_time=timestamp(int(page.effective_time_us[at])),
            content_hash=content_hash if any(content_hash) else b"",
        )
        made.append(entry)
    return made
