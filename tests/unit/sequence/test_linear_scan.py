"""The linear recurrence against a plain loop, both of its ways, forwards and backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.sequence.cells import linear_scan as scans
from nextact_server.sequence.cells.packing import pack


def plain(a: torch.Tensor, b: torch.Tensor, start: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    rows, row = [], 0
    for user, length in enumerate(lengths):
        h = start[user]
        for _ in range(length):
            h = a[row] * h + b[row]
            rows.append(h)
            row += 1
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("way", ["loop", "doubling"])
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_both_ways_equal_a_plain_loop_and_its_gradients(way: str, dtype: torch.dtype, lengths: list[int]) -> None:
    rows, packing = sum(lengths), pack(torch.tensor(lengths), torch.device("cpu"))
    a, b = (torch.randn(rows, 3, dtype=dtype, requires_grad=True) for _ in range(2))
    start = torch.randn(len(lengths), 3, dtype=dtype, requires_grad=True)
    given_gradient = torch.randn(rows, 3, dtype=dtype)

    wanted = plain(a, b, start, lengths)
    gradients = torch.autograd.grad(wanted, (a, b, start), given_gradient)

    packed = [tensor.detach()[packing.source] for tensor in (a, b)]
    first = start.detach()[packing.users]
    forward, back = (scans._loop, scans._loop_back) if way == "loop" else (scans._doubling, scans._doubling_back)
    torch.testing.assert_close(forward(*packed, first, packing)[packing.target], wanted.detach())
    to_b = back(packed[0].conj().resolve_conj(), given_gradient[packing.source], packing)
    torch.testing.assert_close(to_b[packing.target], gradients[1])

    again = [tensor.requires_grad_() for tensor in (*packed, first)]
    h = scans.linear_scan(*again, packing)
    found = torch.autograd.grad(h, again, given_gradient[packing.source])
    torch.testing.assert_close(found[0][packing.target], gradients[0])
    torch.testing.assert_close(found[1][packing.target], gradients[1])
    back_to_given = torch.argsort(packing.users)
    torch.testing.assert_close(found[2][back_to_given], gradients[2])


@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any))
@settings(max_examples=40, deadline=None)
def test_a_packing_is_a_permutation_that_keeps_each_users_order(lengths: list[int]) -> None:
    packing = pack(torch.tensor(lengths), torch.device("cpu"))
    rows = sum(lengths)
    assert sorted(packing.source.tolist()) == list(range(rows))
    assert torch.equal(packing.source[packing.target], torch.arange(rows))
    assert list(packing.sizes) == sorted(packing.sizes, reverse=True)
    ends = torch.tensor(lengths).cumsum(0) - 1
    assert torch.equal(packing.source[packing.ends], ends[packing.users])
    for back in (1, 3):
        previous = packing.previous(back)
        for row, earlier in enumerate(previous.tolist()):
            source = int(packing.source[row])
            user = int((ends < source).sum())
            begins = int(ends[user]) + 1 - lengths[user]
            wanted = source - back
            assert earlier == (int(packing.target[wanted]) if wanted >= begins else -1)
