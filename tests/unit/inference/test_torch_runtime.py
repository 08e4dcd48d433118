import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nextact_server.inference.runtime import LinearHead
from nextact_server.inference.torch_runtime import TorchRuntime

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
    ),
]


class MaskedMean(nn.Module):
    """Mean of embedded tokens under a mask, and a memory of the shapes it met."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 8)
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.shapes.add(tuple(ids.shape))
        weights = mask.unsqueeze(-1).float()
        return (self.table(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)


def batch(count: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, count)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return rng.integers(1, 50, (count, length)) * mask, mask


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 21), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_padded_batch_gives_what_its_rows_give_alone(device: str, count: int, length: int, seed: int) -> None:
    runtime = TorchRuntime(MaskedMean(), device=device, buckets=(1, 2, 4, 8))
    ids, mask = batch(count, length, seed)
    together = runtime.run(ids, mask)
    assert together.shape == (count, 8)
    alone = np.concatenate([runtime.run(ids[at : at + 1], mask[at : at + 1]) for at in range(count)])
    assert np.abs(together - alone).max() <= 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_the_module_meets_few_shapes(device: str) -> None:
    module = MaskedMean()
    runtime = TorchRuntime(module, device=device, buckets=(1, 4), length_step=16)
    for count in range(1, 10):
        for length in (1, 15, 16, 17, 30):
            runtime.run(*batch(count, length))
    assert module.shapes == {(rows, width) for rows in (1, 4) for width in (16, 32)}


@pytest.mark.parametrize("device", DEVICES)
def test_a_result_is_the_callers_own_and_buffers_carry_nothing_over(device: str) -> None:
    runtime = TorchRuntime(nn.Identity(), device=device, buckets=(4,))
    large = np.full((4, 2, 2, 3), 9, np.float32)
    small = np.full((2, 2, 2, 3), 5, np.float32)
    first = runtime.run(large)
    second = runtime.run(small)
    assert (first == 9).all()
    assert (second == 5).all()
    assert second.shape == small.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_half_precision_is_near_and_only_where_asked_for() -> None:
    linear = nn.Linear(64, 32)
    rows = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    exact = TorchRuntime(linear, device="cuda").run(rows)
    half = TorchRuntime(linear, device="cuda", half=True).run(rows)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 1e-2


def test_half_precision_is_refused_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="half precision is for CUDA"):
        TorchRuntime(nn.Identity(), device="cpu", half=True)


@pytest.mark.parametrize("buckets", [(), (2, 1), (1, 1), (0, 1)])
def test_buckets_must_rise(buckets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="buckets must rise"):
        TorchRuntime(nn.Identity(), device="cpu", buckets=buckets)


@pytest.mark.parametrize("device", DEVICES)
def test_a_head_is_the_linear_layer_at_length_one(device: str) -> None:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=5).astype(np.float32))
    rows = rng.normal(size=(3, 8)).astype(np.float32)
    plain = rows @ head.weight.T + head.bias
    result = TorchRuntime(nn.Identity(), device=device, head=head, length_step=8).run(rows)
    assert np.abs(result - plain / np.linalg.norm(plain, axis=1, keepdims=True)).max() <= 1e-5
