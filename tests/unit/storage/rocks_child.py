"""A process that commits groups until it is killed, and says on its output which are durable.

Each line is "ACK number": group `number` is on disk. Group n holds `size_of(n)` events named after it.
"""

import sys
from collections import deque
from pathlib import Path

from rocks_stores import opened
from store_rows import Row, event_rows

from nextact_server.storage.seam import CommitGroup

USERS = 7


def size_of(number: int) -> int:
    return 1 + number * 7919 % 23


def rows_of(number: int) -> list[Row]:
    return [
        Row(
            (number + at) % USERS, f"g{number}-{at}", f"item-{at}", number, text=f"text of {number}", received_us=number
        )
        for at in range(size_of(number))
    ]


def main(data_dir: Path, first: int) -> None:
    store = opened(data_dir, compact_events=300)
    underway: deque[tuple[int, object]] = deque()
    number = first
    print("READY", flush=True)
    while True:
        underway.append((number, store.commit(CommitGroup(number, event_rows(rows_of(number))))))
        number += 1
        while len(underway) > 16 or (underway and underway[0][1].done()):  # type: ignore[attr-defined]
            done, future = underway.popleft()
            future.result()  # type: ignore[attr-defined]
            print("ACK", done, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
