"""Windows cover every event once, and batches cover every window once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.training.sequences import Sequences
from nextact_server.training.windows import batches, cut


def sequences(lengths: list[int]) -> Sequences:
    events = sum(lengths)
    nothing = np.zeros(events, np.int64)
    return Sequences(
        users=tuple(f"u{user}" for user in range(len(lengths))),
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        item=nothing,
        action=nothing,
        time=np.zeros((events, 6), np.float32),
        text=nothing - 1,
        texts=np.zeros((0, 4), np.float32),
        item_target=np.ones(events, np.bool_),
        time_us=nothing,
        gap_us=nothing - 1,
    )


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=12)


@given(lengths=lengths, size=st.integers(2, 25), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_windows_cover_each_event_once_and_are_no_longer_than_asked(lengths: list[int], size: int, seed: int) -> None:
    events = sequences(lengths)
    windows = cut(events, size, np.random.default_rng(seed))
    rows = [row for low, high in zip(windows.start, windows.stop, strict=True) for row in range(low, high)]
    assert sorted(rows) == list(range(sum(lengths)))
    assert (windows.stop - windows.start).max() <= size
    assert (windows.start >= events.starts[windows.user]).all()
    assert (windows.stop <= events.starts[windows.user + 1]).all()


@given(lengths=lengths, limit=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_batches_hold_each_window_once_within_the_limit(lengths: list[int], limit: int, seed: int) -> None:
    windows = cut(sequences(lengths), 20, np.random.default_rng(seed))
    planned = list(batches(windows, limit, np.random.default_rng(seed)))
    assert sorted(start for batch in planned for start in batch.start.tolist()) == sorted(windows.start.tolist())
    for batch in planned:
        size = len(batch.user)
        assert size == 1 or (batch.stop - batch.start).max() * size <= limit
