"""The texts and images that events bring of their own: out of their columns, and back as vectors."""

from collections.abc import Sequence

import numpy as np

from nextact_server.events.arrival import refused, with_content
from nextact_server.events.call import Arrival
from nextact_server.events.hashing import byte_lengths
from nextact_server.events.status import Fault
from nextact_server.features.encoder import Content, Encoding
from nextact_server.features.errors import ContentError

__all__ = ["contents_of", "with_encoded"]


def with_encoded(arrival: Arrival, rows: Sequence[int], encoding: Sequence[Encoding]) -> Arrival:
    """The arrival with its vectors; raises what an encoder raised, but for a fault of the content itself."""
    good: list[int] = []
    failed: dict[int, Fault] = {}
    for at, (row, content) in enumerate(zip(rows, encoding, strict=True)):
        error = content.vector.exception()
        if error is None:
            good.append(at)
        elif isinstance(error, ContentError):
            failed[row] = Fault(error.field, f"{error.field}: {error.reason}")
        else:
            raise error
    if not good:
        return refused(arrival, failed)
    hashes = np.frombuffer(b"".join(encoding[at].key or b"" for at in good), np.uint8).reshape(-1, 16)
    vectors = np.stack([encoding[at].vector.result() for at in good])
    return with_content(refused(arrival, failed), np.array([rows[at] for at in good], np.int64), hashes, vectors)


def contents_of(arrival: Arrival) -> list[tuple[int, Content]]:
    """The texts and images that valid events bring, by row."""
    batch = arrival.batch
    if batch.text is None and batch.image is None:
        return []
    nothing = np.zeros(batch.size, np.int64)
    texts = nothing if batch.text is None else byte_lengths(batch.text)
    images = nothing if batch.image is None else byte_lengths(batch.image)
    return [
        (
            row,
            Content(
                text=batch.text[row].as_py() if batch.text is not None and texts[row] else None,
                image=batch.image[row].as_py() if batch.image is not None and images[row] else None,
            ),
        )
        for row in np.flatnonzero(arrival.valid & (texts + images > 0)).tolist()
    ]
