"""Requests in one batch get what they would get alone."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.inference.batched_instance import BatchedInstance
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import BatchInput, ModelSpec, SequenceBatching, SequenceState, TensorSpec
from nextact_server.inference.instance import StageTimes
from nextact_server.inference.tensors import DataType, Tensor

FP32 = DataType.FP32


class NoSink:
    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        raise AssertionError("an instance that gives results does not respond itself")


def request(output_names: Sequence[str] = (), **inputs: Any) -> InferRequest:
    arrays = {
        name: np.asarray(value, None if np.asarray(value).dtype == object else np.float32)
        for name, value in inputs.items()
    }
    rows = next(iter(arrays.values())).shape[0]
    return InferRequest(arrays, NoSink(), batch_size=rows, output_names=output_names)


def spec(*inputs: TensorSpec, outputs: Sequence[TensorSpec] = (), **more: Any) -> ModelSpec:
    return ModelSpec("m", 1, "pytorch", inputs, tuple(outputs), **({"max_batch_size": 8} | more))


def vector(name: str, **more: Any) -> TensorSpec:
    return TensorSpec(name, FP32, (-1,), **more)


def outputs_of(results: Sequence[object]) -> list[dict[str, Tensor]]:
    found = []
    for result in results:
        assert isinstance(result, InferResponse), result
        found.append(result.outputs)
    return found


def execute(
    model: ModelSpec, run: Callable[[dict[str, Tensor]], dict[str, Tensor]], *requests: InferRequest
) -> list[dict[str, Tensor]]:
    return outputs_of(BatchedInstance(model, run).execute(requests, StageTimes()))


@given(st.data())
def test_a_batch_equals_its_requests_alone(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 4))
    numbers = st.floats(-100, 100, width=32)
    rows = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    requests = [
        request(x=np.reshape(data.draw(st.lists(numbers, min_size=n * width, max_size=n * width)), (n, width)))
        for n in rows
    ]
    weights = np.linspace(-1, 1, width * 3, dtype=np.float32).reshape(width, 3)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": np.tanh(inputs["x"] @ weights), "s": inputs["x"].sum(axis=1, keepdims=True)}

    model = spec(vector("x"), outputs=[vector("y"), vector("s")])
    together = execute(model, run, *requests)
    for one, found in zip(requests, together, strict=True):
        (alone,) = execute(model, run, one)
        for name in ("y", "s"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-5)


def test_a_lone_request_reaches_the_model_without_a_copy() -> None:
    seen: list[Tensor] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(inputs["x"])
        return {"y": inputs["x"]}

    one = request(x=np.ones((2, 3)))
    one.inputs["x"].flags.writeable = False
    (found,) = execute(spec(vector("x"), outputs=[vector("y")]), run, one)
    assert np.shares_memory(seen[0], one.inputs["x"])
    assert np.shares_memory(found["y"], one.inputs["x"])


def test_several_requests_are_joined_once_and_their_outputs_are_views() -> None:
    batches: list[Tensor] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        batches.append(inputs["x"])
        return {"y": inputs["x"]}

    found = execute(spec(vector("x"), outputs=[vector("y")]), run, request(x=[[1, 2]]), request(x=[[3, 4], [5, 6]]))
    assert len(batches) == 1
    assert all(np.shares_memory(one["y"], batches[0]) for one in found)
    assert found[1]["y"].tolist() == [[3, 4], [5, 6]]


def test_only_what_a_request_asks_for_is_given_in_the_order_of_the_configuration() -> None:
    model = spec(vector("x"), outputs=[vector("a"), vector("b"), vector("c")])

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"c": inputs["x"] + 2, "b": inputs["x"] + 1, "a": inputs["x"]}

    found = execute(model, run, request(["c", "a"], x=[[1]]), request(["b"], x=[[5]]))
    assert [list(one) for one in found] == [["a", "c"], ["b"]]
    (alone,) = execute(model, run, request(["c"], x=[[1]]))
    assert list(alone) == ["c"]


def test_requests_that_cannot_share_a_batch_run_one_after_the_other() -> None:
    batches: list[dict[str, tuple[int, ...]]] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        batches.append({name: array.shape for name, array in inputs.items()})
        return {"y": inputs["x"]}

    model = spec(vector("x"), vector("o", optional=True), outputs=[vector("y")])
    found = execute(model, run, request(x=[[1]]), request(x=[[2, 2]]), request(x=[[3]], o=[[1]]), request(x=[[4]]))
    assert [one["y"].tolist() for one in found] == [[[1]], [[2, 2]], [[3]], [[4]]]
    assert batches == [{"x": (2, 1)}, {"x": (1, 2)}, {"x": (1, 1), "o": (1, 1)}]


def test_a_model_that_does_not_batch_runs_once_per_request_and_fails_once_per_request() -> None:
    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if inputs["x"][0] < 0:
            raise ValueError("negative")
        return {"y": inputs["x"], "n": np.float32(inputs["x"].sum())}

    scalar = TensorSpec("n", FP32, (1,))
    instance = BatchedInstance(spec(vector("x"), outputs=[vector("y"), scalar], max_batch_size=0), run)
    good, bad, other = instance.execute([request(x=[1, 2]), request(x=[-1]), request(x=[7])], StageTimes())
    assert isinstance(bad, InferError)
    assert bad.code is ErrorCode.INTERNAL
    assert "negative" in bad.message
    assert [one["y"].tolist() for one in outputs_of([good, other])] == [[1, 2], [7]]
    assert outputs_of([good])[0]["n"].tolist() == [3]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=6))
def test_padding_is_cut_back(sizes: list[tuple[int, int]]) -> None:
    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"]
        return {"y": x * 2, "total": x.sum(axis=1, keepdims=True), "back": x[:, :, np.newaxis].repeat(2, axis=2)}

    outputs = [vector("y"), TensorSpec("total", FP32, (1,)), TensorSpec("back", FP32, (-1, 2))]
    model = spec(vector("x", ragged=True), outputs=outputs, max_batch_size=32)
    rng = np.random.default_rng(0)
    requests = [request(x=rng.normal(size=size)) for size in sizes]
    together = execute(model, run, *requests)
    for one, found in zip(requests, together, strict=True):
        (alone,) = execute(model, run, one)
        for name in alone:
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-5)


def test_strings_of_different_lengths_are_padded_with_empty_ones() -> None:
    batches: list[Tensor] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        batches.append(inputs["x"])
        return {"y": inputs["x"]}

    texts = TensorSpec("x", DataType.BYTES, (-1,), ragged=True)
    model = spec(texts, outputs=[TensorSpec("y", DataType.BYTES, (-1,))])
    found = execute(model, run, request(x=np.array([[b"a", b"b"]], object)), request(x=np.array([[b"c"]], object)))
    assert batches[0].tolist() == [[b"a", b"b"], [b"c", b""]]
    assert [one["y"].tolist() for one in found] == [[[b"a", b"b"]], [[b"c"]]]


def test_an_output_is_not_cut_where_two_inputs_disagree_on_the_length() -> None:
    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": inputs["a"]}

    model = spec(vector("a", ragged=True), vector("b", ragged=True), outputs=[vector("y")])
    found = execute(model, run, request(a=[[1, 1]], b=[[1]]), request(a=[[2]], b=[[1, 1]]))
    assert found[1]["y"].tolist() == [[2, 0]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("BATCH_ELEMENT_COUNT", [2, 6]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT", [2, 8]),
        ("BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", [0, 2, 8]),
        ("BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", [0] * 6),
        ("BATCH_ITEM_SHAPE", [[2], [3], [3]]),
        ("BATCH_ITEM_SHAPE_FLATTEN", [2, 3, 3]),
    ],
)
def test_a_model_for_ragged_batches_gets_flat_elements_and_batch_inputs(kind: str, expected: list[Any]) -> None:
    batches: list[dict[str, Tensor]] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        batches.append(inputs)
        return {"y": np.arange(3, dtype=np.float32)[:, np.newaxis]}

    tells = BatchInput(kind, ("i", "j"), DataType.INT32, ("x",))
    model = spec(vector("x", ragged=True), outputs=[vector("y")], batch_inputs=(tells,))
    found = execute(model, run, request(x=[[1, 2]]), request(x=[[3, 4, 5], [6, 7, 8]]))
    assert batches[0]["x"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert batches[0]["i"].dtype == np.int32
    assert batches[0]["i"].shape == np.shape(expected)
    if "AS_SHAPE" not in kind:
        assert batches[0]["i"].tolist() == batches[0]["j"].tolist() == expected
    assert [one["y"].tolist() for one in found] == [[[0]], [[1], [2]]]


def test_a_model_sees_its_own_shape_and_the_world_the_other() -> None:
    seen: list[tuple[int, ...]] = []

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.extend([inputs["x"].shape, inputs["v"].shape])
        return {"y": inputs["x"][:, 0], "w": inputs["v"]}

    model = spec(
        TensorSpec("x", FP32, (2,), reshape=(1, 2)),
        TensorSpec("v", FP32, (-1, 2, -1), reshape=(2, -1, -1)),
        outputs=[TensorSpec("y", FP32, (2, 1), reshape=(2,)), TensorSpec("w", FP32, (-1, -1, 2), reshape=(2, -1, -1))],
    )
    found = execute(
        model, run, request(x=[[1, 2]], v=np.ones((1, 3, 2, 4))), request(x=[[3, 4]], v=np.ones((1, 3, 2, 4)))
    )
    assert seen == [(2, 1, 2), (2, 2, 3, 4)]
    assert found[1]["y"].tolist() == [[[3], [4]]]
    assert found[1]["w"].shape == (1, 3, 4, 2)


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({}, "'y' of model 'm' is missing"),
        ({"y": np.zeros((1, 1), np.float64)}, "TYPE_FP32, and the model gave float64"),
        ({"y": np.zeros((3, 1), np.float32)}, "shape [3, 1] for a batch of 1"),
        ({"y": np.zeros((), np.float32)}, "shape [] for a batch of 1"),
    ],
)
def test_outputs_that_are_not_as_configured_are_the_models_failure(outputs: dict[str, Tensor], told: str) -> None:
    instance = BatchedInstance(spec(vector("x"), outputs=[vector("y")]), lambda _: outputs)
    with pytest.raises(InferError) as failure:
        instance.execute([request(x=[[1]])], StageTimes())
    assert failure.value.code is ErrorCode.INTERNAL
    assert told in failure.value.message


def test_an_output_that_nobody_asks_for_may_be_missing() -> None:
    model = spec(vector("x"), outputs=[vector("y"), vector("z")])
    (found,) = execute(model, lambda inputs: {"y": inputs["x"]}, request(["y"], x=[[1]]))
    assert list(found) == ["y"]


def test_the_state_of_a_sequence_is_always_given() -> None:
    state = SequenceState("s_in", "s_out", FP32, (1,))
    model = spec(vector("x"), outputs=[vector("y"), vector("z")], schedule=SequenceBatching(states=(state,)))

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": inputs["x"], "z": inputs["x"], "s_out": inputs["s_in"] + inputs["x"]}

    found = execute(model, run, request(["y"], x=[[1]], s_in=[[5]]), request(["y"], x=[[2]], s_in=[[6]]))
    assert [sorted(one) for one in found] == [["s_out", "y"]] * 2
    assert [one["s_out"].tolist() for one in found] == [[[6]], [[8]]]


def test_the_three_stages_are_timed() -> None:
    times = StageTimes()
    BatchedInstance(spec(vector("x"), outputs=[vector("y")]), lambda inputs: {"y": inputs["x"]}).execute(
        [request(x=[[1]]), request(x=[[2]])], times
    )
    assert times.input_ns > 0
    assert times.infer_ns > 0
    assert times.output_ns > 0
