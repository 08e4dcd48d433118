"""From the segments of a database that was opened to the generations in memory."""

from nextact_server.storage.rocks_database import CONTENT, SEGMENTS, SUPPRESSED, Database
from nextact_server.storage.rocks_overlay import Overlay
from nextact_server.storage.rocks_past import Pasts
from nextact_server.storage.rocks_schema import DIMENSION, NEXT_NUMBER, bring_up_to_date, read_number
from nextact_server.storage.rocks_segments import Segment, segment_from_bytes
from nextact_server.storage.seam import StoreError


def recover(database: Database, overlay: Overlay, pasts: Pasts, compact_events: int) -> int:
    """Fills the overlay with what is not compacted; returns the length of the content vectors, 0 for none.

    Raises:
        StoreError: the database is of another version, or a segment is damaged.
    """
    bring_up_to_date(database)
    overlay.reset(read_number(database, NEXT_NUMBER), {user for user, _ in database.scan(SUPPRESSED)})
    dimension = read_number(database, DIMENSION)
    for key, raw in database.scan(SEGMENTS):
        try:
            segment = segment_from_bytes(key, raw)
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"{database.path}: segment {key.hex()} is damaged ({error}); restore a backup") from error
        apply(segment, overlay, pasts)
        for vector in overlay.youngest.content.values():
            dimension = len(vector)
            break
        if len(overlay.youngest) >= compact_events or overlay.youngest.erased:
            overlay.seal()
    if not dimension:
        dimension = next((len(raw) // 4 for _, raw in database.scan(CONTENT)), 0)
    return dimension


def apply(segment: Segment, overlay: Overlay, pasts: Pasts) -> None:
    """Makes a durable segment visible."""
    forgotten = [message for one in segment.forgotten for message in pasts.messages(one.user)]
    overlay.apply(segment, forgotten)
