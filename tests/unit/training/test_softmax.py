"""The blockwise loss against torch's own, with its gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.training import softmax
from nextact_server.training.softmax import Removed, softmax_loss


def plain(
    query: torch.Tensor,
    candidates: torch.Tensor,
    bias: torch.Tensor,
    goal: torch.Tensor,
    removed: Removed | None,
) -> torch.Tensor:
    logits = query @ candidates.T + bias
    if removed is not None:
        gone = removed.first[removed.owner] < removed.number[:, None]
        gone[torch.arange(len(goal)), goal] = False
        logits = logits.masked_fill(gone, -torch.inf)
    return F.cross_entropy(logits, goal)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(2, 12),
    block=st.integers(1, 50),
    removes=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_any_block_gives_the_loss_and_gradients_of_the_whole(
    rows: int, columns: int, block: int, removes: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((rows, 5), (columns, 5), (columns,))]
    goal = torch.randint(0, columns, (rows,))
    removed = None
    if removes:
        first = torch.randint(0, 20, (3, columns), dtype=torch.int32)
        removed = Removed(first, torch.randint(0, 3, (rows,)), torch.randint(0, 20, (rows,), dtype=torch.int32))
    wanted = plain(*inputs, goal, removed)
    gradients = torch.autograd.grad(wanted, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "BLOCK", block)
        found = softmax_loss(*inputs, goal, removed=removed)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for got, expected in zip(torch.autograd.grad(found, inputs), gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_smoothing_is_in_the_gradient() -> None:
    torch.manual_seed(0)
    query, candidates = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    goal = torch.randint(0, 9, (6,))
    expected = torch.autograd.grad(F.cross_entropy(query @ candidates.T, goal, label_smoothing=0.2), query)[0]
    found = torch.autograd.grad(softmax_loss(query, candidates, torch.zeros(9), goal, smoothing=0.2), query)[0]
    torch.testing.assert_close(found, expected)


def test_half_the_precision_is_near_the_whole() -> None:
    torch.manual_seed(0)
    query, candidates, bias = torch.randn(50, 16), torch.randn(30, 16), torch.randn(30)
    goal = torch.randint(0, 30, (50,))
    whole = softmax_loss(query, candidates, bias, goal)
    torch.testing.assert_close(
        softmax_loss(query, candidates, bias, goal, dtype=torch.bfloat16), whole, rtol=0.02, atol=0
    )
