"""Warm-up, rate limits and the response cache of models that are loaded."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.fake_models import (
    WAIT_S,
    FakeBackend,
    FakeInstance,
    FakeVersion,
    ask,
    config_text,
    make_registry,
    write_model,
)

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import Result, StageTimes
from nextact_server.inference.rate_limiter import RateLimiter, RateLimitMode
from nextact_server.inference.response_cache import ResponseCache
from nextact_server.repository.registry import ModelRegistry


def warmup(inputs: str = "data_type: TYPE_FP32 dims: [ 1 ] zero_data: true", **fields: int) -> str:
    told = " ".join(f"{name}: {value}" for name, value in fields.items())
    return f'model_warmup [ {{ name: "w" {told} inputs {{ key: "IN" value {{ {inputs} }} }} }} ]'


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def registry(tmp_path: Path, backend: FakeBackend) -> Iterator[ModelRegistry]:
    made = make_registry(tmp_path, backend)
    yield made
    made.close()


def test_a_new_version_is_warm_before_it_takes_over(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry
) -> None:
    body = warmup(batch_size=2, count=3) + " instance_group [ { count: 2 } ]"
    write_model(tmp_path, "net", config_text(body), v1=1)
    registry.load("net")
    seen: list[tuple[str, list[list[int]], int]] = []

    def executed(instance: FakeInstance, requests: Sequence[InferRequest]) -> None:
        shapes = [list(request.inputs["IN"].shape) for request in requests]
        seen.append((instance.placement.name, shapes, registry.get("net").spec.version))

    backend.executed = executed
    write_model(tmp_path, "net", v2=2)
    registry.load("net")
    assert sorted(seen) == sorted([(f"net_0_{at}", [[1, 1], [1, 1]], 1) for at in (0, 1)] * 3)
    assert ask(registry, "net").value() == 2
    assert registry.get("net").statistics.snapshot().execution_count == 1


def test_a_version_that_fails_its_warm_up_does_not_take_over(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry
) -> None:
    write_model(tmp_path, "net", config_text(warmup()), v1=1)
    registry.load("net")
    write_model(tmp_path, "net", v2=2)

    def executed(instance: FakeInstance, requests: Sequence[InferRequest]) -> None:
        if instance.version.value == 2:
            raise ValueError("execute went wrong")

    backend.executed = executed
    with pytest.raises(InferError) as caught:
        registry.load("net")
    assert (
        "version 2 is at UNAVAILABLE state: Invalid argument: failed to run warmup sample 'w': ValueError: execute "
        "went wrong; ;" in caught.value.message
    )
    assert backend.versions[1].closed.is_set()
    assert ask(registry, "net").value() == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (warmup("data_type: TYPE_FP32 dims: [ -1 ] zero_data: true"), "variable-size dimensions are specified for inp"),
        (warmup("data_type: TYPE_FP32 dims: [ 1 ]"), "warmup setting expects input 'IN' to have input_data_type set"),
        (warmup("dims: [ 1 ] zero_data: true"), "inference input 'IN' data-type is '<invalid>'"),
        (
            warmup("data_type: TYPE_INT32 dims: [ 1 ] zero_data: true"),
            "inference input 'IN' data-type is 'INT32', but model 'net' expects 'FP32'",
        ),
        (warmup("data_type: TYPE_FP32 dims: [ 3 ] zero_data: true"), "unexpected shape for input 'IN' for model 'net'"),
        (warmup('data_type: TYPE_FP32 dims: [ 1 ] input_data_file: "gone"'), "/warmup/gone: No such file or directory"),
        (
            warmup('data_type: TYPE_FP32 dims: [ 1 ] input_data_file: "short"'),
            "warmup setting expects 4 bytes, but the data provided from short has 3 bytes",
        ),
        (warmup(batch_size=99), "warmup sample 'w' has batch_size 99, but max_batch_size of 'net' is 4"),
        ('model_warmup [ { name: "w" batch_size: 1 } ]', "expected 1 inputs but got 0 inputs for model 'net'"),
    ],
)
def test_a_sample_that_does_not_fit_fails_the_load(
    tmp_path: Path, registry: ModelRegistry, text: str, said: str
) -> None:
    folder = write_model(tmp_path, "net", config_text(text), v1=1)
    (folder / "warmup").mkdir()
    (folder / "warmup" / "short").write_bytes(b"abc")
    with pytest.raises(InferError, match="load failed for model 'net'") as caught:
        registry.load("net")
    assert said in caught.value.message


def test_samples_are_zeros_random_or_from_a_file(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    body = (
        warmup()
        + warmup("data_type: TYPE_FP32 dims: [ 1 ] random_data: true")
        + warmup('data_type: TYPE_FP32 dims: [ 1 ] input_data_file: "f"')
    )
    folder = write_model(tmp_path, "net", config_text(body), v1=1)
    (folder / "warmup").mkdir()
    (folder / "warmup" / "f").write_bytes(np.array([2.5], "<f4").tobytes())
    given: list[float] = []
    backend.executed = lambda instance, requests: given.append(float(requests[0].inputs["IN"][0, 0]))
    registry.load("net")
    zero, random, read = given
    assert (zero, read) == (0, 2.5)
    assert 0 <= random < 1


def test_a_sequence_model_is_warmed_with_its_controls_and_states(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry
) -> None:
    sequence = """sequence_batching {
      control_input [
        { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
        { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ] }
      ]
      state [ { input_name: "STATE" output_name: "NEXT" data_type: TYPE_FP32 dims: [ 2 ] } ]
    }"""
    write_model(tmp_path, "net", config_text(warmup() + sequence), v1=1)
    given: list[dict[str, list[object]]] = []
    backend.executed = lambda instance, requests: given.append(
        {name: tensor.tolist() for name, tensor in requests[0].inputs.items()}
    )
    registry.load("net")
    assert given == [{"IN": [[0.0]], "START": [[1]], "CORRID": [[b"1"]], "STATE": [[0.0, 0.0]]}]


def test_a_decoupled_model_is_warm_when_its_last_answer_came(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(FakeInstance):
        def execute(self, requests: Sequence[InferRequest], times: StageTimes) -> Sequence[Result]:
            threading.Thread(target=lambda: [request.respond(None) for request in requests]).start()
            return [None] * len(requests)

    monkeypatch.setattr(FakeVersion, "instance", lambda self, placement: Later(self, placement))
    write_model(tmp_path, "net", config_text(warmup() + "model_transaction_policy { decoupled: true }"), v1=1)
    registry.load("net")
    assert registry.get("net").spec.decoupled


def test_what_a_version_answered_is_not_kept_for_the_one_loaded_after_it(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "net", config_text("response_cache { enable: true }"), v1=1)
    registry = make_registry(tmp_path, backend, cache=ResponseCache(1 << 20))
    registry.load("net")
    assert [ask(registry, "net").value() for _ in range(3)] == [1, 1, 1]
    counts = registry.get("net").statistics.snapshot()
    assert (counts.execution_count, counts.cache_hit.count) == (1, 2)
    write_model(tmp_path, "net", v1=20)
    registry.load("net")
    assert ask(registry, "net").value() == 20
    registry.close()


def test_a_cache_that_is_not_there_is_warned_of(
    tmp_path: Path, registry: ModelRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    write_model(tmp_path, "net", config_text("response_cache { enable: true }"), v1=1)
    registry.load("net")
    assert any("'net' sets response_cache, but the server has no response cache" in line for line in caplog.messages)
    assert ask(registry, "net").value() == 1


def test_instances_take_part_in_the_rate_limiter_as_long_as_they_live(tmp_path: Path, backend: FakeBackend) -> None:
    limiter = RateLimiter({"R": 2}, mode=RateLimitMode.EXECUTION_COUNT)
    registry = make_registry(tmp_path, backend, limiter=limiter)
    write_model(tmp_path, "net", config_text(group(2)), v1=1)
    write_model(tmp_path, "greedy", config_text(group(3)), v1=1)
    registry.load("net")
    assert ask(registry, "net").value() == 1
    with pytest.raises(InferError, match='Resource count for "R" is limited to 2 which will prevent scheduling'):
        registry.load("greedy")
    registry.unload("net")
    assert backend.versions[0].closed.wait(WAIT_S)
    registry.close()
    assert limiter._members == {}


def group(count: int) -> str:
    return f'instance_group [ {{ count: 1 rate_limiter {{ resources [ {{ name: "R" count: {count} }} ] }} }} ]'
