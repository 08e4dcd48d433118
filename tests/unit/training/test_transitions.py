"""The prior's table against plain counting."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.sequence.config import FIRST_ITEM, UNKNOWN_ITEM
from nextact_server.training.config import PriorSettings
from nextact_server.training.sequences import Sequences
from nextact_server.training.transitions import build_prior

ITEMS = 5


def sequences(histories: list[list[int]]) -> Sequences:
    item = np.array([one for history in histories for one in history], np.int64)
    starts = np.concatenate(([0], np.cumsum([len(history) for history in histories]))).astype(np.int64)
    nothing = np.zeros(len(item), np.int64)
    return Sequences(
        users=tuple(f"u{user}" for user in range(len(histories))),
        starts=starts,
        item=item,
        action=nothing,
        time=np.zeros((len(item), 6), np.float32),
        text=nothing - 1,
        texts=np.zeros((0, 4), np.float32),
        item_target=np.ones(len(item), np.bool_),
        time_us=nothing,
        gap_us=nothing - 1,
    )


@given(
    histories=st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7), min_size=1, max_size=5),
    span=st.integers(1, 3),
    most=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_row_holds_the_most_frequent_successors_and_their_shares(
    histories: list[list[int]], span: int, most: int
) -> None:
    wanted = np.zeros((ITEMS, ITEMS))
    for history in histories:
        for at, before in enumerate(history):
            for step, after in enumerate(history[at + 1 : at + 1 + span]):
                wanted[before, after] += 0.5**step
                wanted[after, before] += 0.25 * 0.5**step
    np.fill_diagonal(wanted, 0.0)
    vocab = np.array([FIRST_ITEM + 2, UNKNOWN_ITEM, FIRST_ITEM, FIRST_ITEM + 1, FIRST_ITEM + 3])
    wanted[1] = wanted[:, 1] = 0.0  # an item without an id of its own is in no row
    asked = PriorSettings(span=span, span_decay=0.5, backward=0.25, successors=most)
    prior = build_prior(sequences(histories), vocab, FIRST_ITEM + 4, asked)
    column = {int(row): item for item, row in enumerate(vocab)}
    for item, row in enumerate(vocab.tolist()):
        entries = slice(int(prior.starts[row]), int(prior.starts[row + 1])) if item != 1 else slice(0, 0)
        got = {
            column[int(at)]: float(share) for at, share in zip(prior.items[entries], prior.shares[entries], strict=True)
        }
        best = np.sort(wanted[item])[::-1][:most]
        best = best[best > 0]
        assert len(got) == len(best)
        if got:
            np.testing.assert_allclose(sorted(got.values(), reverse=True), best / best.sum(), rtol=1e-6)
            assert all(wanted[item, to] > 0 for to in got)
