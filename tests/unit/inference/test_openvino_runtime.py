import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nextact_server.inference.cores import CoreBudget
from nextact_server.inference.ir_cache import IrCache
from nextact_server.inference.openvino_runtime import OpenVinoRuntime, load_openvino
from nextact_server.inference.runtime import LinearHead


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(pixels.permute(0, 3, 1, 2).float() / 255)
        return result


def source() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return Net().eval(), (torch.zeros(2, 12, 12, 3, dtype=torch.uint8),)


def never() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    raise AssertionError("the module was built though its conversion is there")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> IrCache:
    return IrCache(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def runtime(cache: IrCache) -> OpenVinoRuntime:
    return load_openvino("net", "k", source, cache, threads=1)


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 20), seed=st.integers(0, 99))
def test_any_batch_gives_what_torch_gives_for_each_alone(runtime: OpenVinoRuntime, count: int, seed: int) -> None:
    batch = pixels(count, seed)
    module, _ = source()
    with torch.inference_mode():
        alone = np.concatenate([module(torch.from_numpy(batch[at : at + 1])).numpy() for at in range(count)])
    assert np.abs(runtime.run(batch) - alone).max() <= 1e-5


def test_a_result_is_the_callers_own(runtime: OpenVinoRuntime) -> None:
    first = runtime.run(pixels(3, 1))
    kept = first.copy()
    runtime.run(pixels(3, 2))
    assert (first == kept).all()


def test_a_converted_model_is_loaded_without_its_module(runtime: OpenVinoRuntime, cache: IrCache) -> None:
    again = load_openvino("net", "k", never, cache, threads=1)
    assert (again.run(pixels(2)) == runtime.run(pixels(2))).all()


def test_a_corrupt_conversion_is_made_again(tmp_path: Path) -> None:
    cache = IrCache(tmp_path)
    expected = load_openvino("net", "k", source, cache, threads=1).run(pixels(2))
    (weights,) = tmp_path.glob("net-k-ov*/model.bin")
    weights.write_bytes(weights.read_bytes()[:-40] + b"\0" * 40)
    repaired = load_openvino("net", "k", source, cache, threads=1)
    assert (repaired.run(pixels(2)) == expected).all()
    load_openvino("net", "k", never, cache, threads=1)


def test_it_waits_for_the_cores_it_computes_with(cache: IrCache) -> None:
    cores = CoreBudget(2)
    runtime = load_openvino("net", "k", source, cache, threads=2, cores=cores)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (runtime.run(pixels(1)), done.set()))
    with cores.use(1):
        thread.start()
        while not cores._line:
            threading.Event().wait(0.001)
        assert not done.is_set()
    thread.join(10)
    assert done.is_set()


def test_a_closed_model_says_so(cache: IrCache) -> None:
    runtime = load_openvino("net", "k", source, cache, threads=1)
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.run(pixels(1))


def test_threads_may_share_a_model(runtime: OpenVinoRuntime) -> None:
    batches = [pixels(1 + n, n) for n in range(6)]
    expected = [runtime.run(batch) for batch in batches]
    results: list[np.ndarray | None] = [None] * len(batches)

    def work(place: int) -> None:
        results[place] = runtime.run(batches[place])

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        assert result is not None
        assert np.abs(result - wanted).max() <= 1e-6


def test_a_head_is_the_linear_layer_at_length_one_behind_the_same_conversion(
    runtime: OpenVinoRuntime, cache: IrCache
) -> None:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=5).astype(np.float32))
    headed = load_openvino("net", "k", never, cache, threads=1, head=head)
    plain = runtime.run(pixels(4)) @ head.weight.T + head.bias
    assert np.abs(headed.run(pixels(4)) - plain / np.linalg.norm(plain, axis=1, keepdims=True)).max() <= 1e-5
