"""What the response cache keeps, and what it takes for the same."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.response_cache import ResponseCache, cache_key
from nextact_server.inference.tensors import DataType, Tensor

OUTPUTS = (TensorSpec("y", DataType.FP32, (1,)), TensorSpec("z", DataType.FP32, (1,)))
SPEC = ModelSpec("m", 1, "", (TensorSpec("x", DataType.FP32, (-1,)),), OUTPUTS, max_batch_size=8)


class NoSink:
    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None: ...


def key(spec: ModelSpec = SPEC, inputs: dict[str, Tensor] | None = None, **more: Any) -> bytes:
    return cache_key(spec, InferRequest(inputs or {"x": np.ones((1, 4), np.float32)}, NoSink(), **more))


def texts(*elements: bytes) -> dict[str, Tensor]:
    return {"x": np.array([elements], object)}


def answer(size: int = 1) -> InferResponse:
    return InferResponse({"y": np.ones(size, np.uint8)})


def test_the_key_is_that_of_the_content_alone() -> None:
    assert len(key()) == 16
    assert key() == key(id="another", priority=3, timeout_us=5)
    assert key() == key(output_names=["z", "y"]) == key(output_names=["y", "z", "y"])
    backwards = np.ones((1, 8), np.float32)[:, ::2]
    assert key() == key(inputs={"x": backwards})
    two = {"a": np.zeros(1), "b": np.ones(1)}
    assert key(inputs=two) == key(inputs=dict(reversed(two.items())))


@pytest.mark.parametrize(
    "other",
    [
        key(ModelSpec("n", 1, "", SPEC.inputs, OUTPUTS)),
        key(ModelSpec("m", 2, "", SPEC.inputs, OUTPUTS)),
        key(inputs={"x": np.ones((4, 1), np.float32)}),
        key(inputs={"x": np.ones((1, 4), np.int32)}),
        key(inputs={"y": np.ones((1, 4), np.float32)}),
        key(inputs={"x": np.zeros((1, 4), np.float32)}),
        key(output_names=["y"]),
        key(parameters={"temperature": 1}),
        key(parameters={"temperature": True}),
        key(parameters={"temperature": "1"}),
    ],
)
def test_whatever_the_answer_may_depend_on_makes_another_key(other: bytes) -> None:
    assert other != key()


def test_parameters_of_different_types_are_different() -> None:
    assert len({key(parameters={"t": value}) for value in (1, True, 1.0, "1")}) == 4


def test_strings_are_told_apart_by_their_lengths() -> None:
    keys = {key(inputs=texts(*one)) for one in ((b"ab", b"c"), (b"a", b"bc"), (b"abc", b""), (b"", b"abc"))}
    assert len(keys) == 4


def test_bf16_has_a_key() -> None:
    one, two = ({"x": np.array([value], ml_dtypes.bfloat16)} for value in (1, 2))
    assert key(inputs=one) != key(inputs=two)


def test_a_kept_response_cannot_be_changed_and_holds_no_batch() -> None:
    cache = ResponseCache(10_000)
    batch = np.zeros((100, 4), np.float32)
    cache.put(b"k", InferResponse({"y": batch[3:4]}, {"p": 1}))
    batch[:] = 7
    found = cache.get(b"k")
    assert found is not None
    assert found.outputs["y"].tolist() == [[0, 0, 0, 0]]
    assert found.parameters == {"p": 1}
    assert not found.outputs["y"].flags.writeable
    assert found.outputs["y"].base is None
    found.outputs.clear()
    again = cache.get(b"k")
    assert again is not None
    assert list(again.outputs) == ["y"]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3_000)), max_size=60))
def test_it_never_holds_more_than_its_bytes_and_forgets_the_longest_unused(puts: list[tuple[int, int]]) -> None:
    cache = ResponseCache(6_000)
    order: list[bytes] = []
    for number, size in puts:
        one = bytes([number])
        if cache.get(one) is not None:
            order.remove(one)
            order.append(one)
        before = cache.counts()
        cache.put(one, answer(size))
        order = [*(other for other in order if other != one), one]
        after = cache.counts()
        order = order[after.evicted - before.evicted :]
        assert after.bytes <= 6_000
        assert after.entries == len(order)
        assert one in order
    for one in order:
        assert cache.get(one) is not None


def test_what_is_larger_than_the_cache_pushes_nothing_out() -> None:
    cache = ResponseCache(3_000)
    cache.put(b"small", answer())
    cache.put(b"large", answer(4_000))
    assert cache.get(b"small") is not None
    assert cache.get(b"large") is None
    counts = cache.counts()
    assert (counts.entries, counts.hits, counts.misses, counts.refused, counts.evicted) == (1, 1, 1, 1, 0)


def test_strings_count_by_their_lengths() -> None:
    cache = ResponseCache(100_000)
    cache.put(b"k", InferResponse(texts(b"x" * 50_000, b"y")))
    assert cache.counts().bytes > 50_000


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="its size is 0 bytes"):
        ResponseCache(0)
