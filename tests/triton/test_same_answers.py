"""Whatever the real Triton answers to a client, nextact answers too: the same bits, the same codes, the same words."""

import queue
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Client = grpcclient.InferenceServerClient
RNG = np.random.default_rng(3)


def tensor(name: str, array: np.ndarray, datatype: str | None = None) -> grpcclient.InferInput:
    made = grpcclient.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def told(call: Callable[[], Any]) -> Any:
    """What a call gives: outputs as (datatype, shape, bytes) by name, or the status and its text."""
    try:
        return read(call())
    except InferenceServerException as error:
        return error.status(), error.message()


def read(result: Any) -> dict[str, tuple[str, list[int], bytes]]:
    response = result.get_response()
    assert len(response.raw_output_contents) == len(response.outputs)
    return {
        output.name: (output.datatype, list(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def same(triton: Client, nextact: Client, *arguments: Any, **options: Any) -> Any:
    """Asks both, holds the answers against each other, and returns the one they gave."""
    expected = told(lambda: triton.infer(*arguments, **options))
    assert told(lambda: nextact.infer(*arguments, **options)) == expected
    return expected


def values(datatype: str, shape: tuple[int, ...]) -> np.ndarray:
    if datatype == "STRING":
        words = [bytes(RNG.integers(0, 256, int(RNG.integers(0, 20)), np.uint8)) for _ in range(int(np.prod(shape)))]
        return np.array(words, np.object_).reshape(shape)
    if datatype == "BOOL":
        return RNG.integers(0, 2, shape).astype(np.bool_)
    if datatype in ("FP16", "FP32", "FP64"):
        return RNG.normal(size=shape).astype(datatype.replace("FP", "float"))
    kind = np.dtype(datatype.lower())
    return RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_identity(triton: Client, nextact: Client, rows: int) -> None:
    sent = values("FP32", (rows, 64))
    answer = same(triton, nextact, "identity", [tensor("IN", sent)])
    assert answer["OUT"] == ("FP32", [rows, 64], sent.tobytes())


INTEGERS = [f"{sign}{bits}" for sign in ("UINT", "INT") for bits in (8, 16, 32, 64)]
DATATYPES = ["BOOL", *INTEGERS, "FP16", "FP32", "FP64", "STRING"]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype(triton: Client, nextact: Client, datatype: str) -> None:
    answer = same(triton, nextact, "echo", [tensor(f"IN_{datatype}", values(datatype, (2, 5)))])
    assert len(answer) == 1


def test_bfloat16(triton: Client, nextact: Client) -> None:
    sent = tensor("IN_BF16", values("FP32", (2, 5)).astype(ml_dtypes.bfloat16), "BF16")
    assert same(triton, nextact, "echo", [sent])["OUT_BF16"][:2] == ("BF16", [2, 5])


def test_several_tensors_and_only_the_requested_outputs(triton: Client, nextact: Client) -> None:
    inputs = [tensor(f"IN_{datatype}", values(datatype, (1, 4))) for datatype in ("STRING", "INT64", "FP16")]
    outputs = [grpcclient.InferRequestedOutput(name) for name in ("OUT_FP16", "OUT_STRING")]
    assert set(same(triton, nextact, "echo", inputs, outputs=outputs)) == {"OUT_FP16", "OUT_STRING"}


@pytest.mark.parametrize("rows", [1, 7])
def test_two_instances_with_preferred_sizes_and_a_delay(triton: Client, nextact: Client, rows: int) -> None:
    same(triton, nextact, "add_one", [tensor("IN", values("FP32", (rows, 9)))])


@pytest.mark.parametrize("model", ["identity", "diamond", "repeat", "failing", "nowhere"])
def test_a_model_that_calls_models(triton: Client, nextact: Client, model: str) -> None:
    inputs = [tensor("IN", values("FP32", (2, 64))), tensor("MODEL", np.array([model.encode()], np.object_))]
    same(triton, nextact, "caller", inputs)


def test_an_ensemble(triton: Client, nextact: Client) -> None:
    sent = values("FP32", (5, 64))
    answer = same(triton, nextact, "diamond", [tensor("IN", sent)])
    assert answer["TWICE"][2] == (sent + 1 + 1).tobytes()


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classification(triton: Client, nextact: Client, classes: int) -> None:
    inputs = [tensor("IN", np.array([[0.5, -1, 2], [1, 1, 0]], np.float32))]
    outputs = [grpcclient.InferRequestedOutput("OUT", class_count=classes)]
    same(triton, nextact, "labels", inputs, outputs=outputs)


@pytest.mark.parametrize("way", ["fine", "raise", "error", "count"])
def test_a_model_that_fails(triton: Client, nextact: Client, way: str) -> None:
    same(triton, nextact, "failing", [tensor("IN", np.array([way.encode()], np.object_))])
    same(triton, nextact, "failing", [tensor("IN", np.array([b"fine"], np.object_))])


@pytest.mark.parametrize("strategy", ["direct", "oldest"])
def test_sequences(triton: Client, nextact: Client, strategy: str) -> None:
    model = f"accumulate_{strategy}"
    steps = [(11, 1, True, False), (12, 5, True, False), (11, 2, False, False), (12, 6, False, True)]
    steps += [(11, 3, False, True), (11, 9, False, False), (12, 4, True, True), (0, 1, True, False)]
    for sequence, value, start, end in steps:
        inputs = [tensor("IN", np.array([[value]], np.int32))]
        same(triton, nextact, model, inputs, sequence_id=sequence, sequence_start=start, sequence_end=end)


def test_a_decoupled_model_wants_a_stream(triton: Client, nextact: Client) -> None:
    same(triton, nextact, "repeat", [tensor("IN", np.array([4, 5], np.int32))])


def streamed(client: Client, requests: list[tuple[str, list[Any], dict[str, Any], int]]) -> list[Any]:
    """What comes back on one stream to requests of which each is sent when the one before has its responses.

    Not all at once: this Triton ends now and then where an error and the next request cross on a stream.
    """
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    found: list[Any] = []
    client.start_stream(lambda result, error: arrived.put((result, error)))
    try:
        for number, (model, inputs, options, responses) in enumerate(requests):
            client.async_stream_infer(model, inputs, request_id=str(number), **options)
            for _ in range(responses):
                result, error = arrived.get(timeout=20)
                if error is not None:
                    found.append(error.message())
                    continue
                response = result.get_response()
                final = {name: value.bool_param for name, value in response.parameters.items()}
                found.append((response.id, response.model_name, read(result), final))
    finally:
        client.stop_stream()
    return found


@pytest.mark.parametrize("empty_final", [False, True])
@pytest.mark.parametrize("numbers", [[], [7], [3, 1, 2]])
def test_a_stream_of_decoupled_answers(triton: Client, nextact: Client, numbers: list[int], empty_final: bool) -> None:
    inputs = [tensor("IN", np.array(numbers, np.int32))]
    options = {"enable_empty_final_response": empty_final}
    requests = [("repeat", inputs, options, len(numbers) + int(empty_final))]
    expected = streamed(triton, requests)
    assert streamed(nextact, requests) == expected


def test_a_stream_goes_on_after_an_error(triton: Client, nextact: Client) -> None:
    requests: list[tuple[str, list[Any], dict[str, Any], int]] = [
        ("repeat", [tensor("IN", np.array([1, -1, 2], np.int32))], {}, 3),
        ("nowhere", [tensor("IN", np.array([1], np.int32))], {}, 1),
        ("identity", [tensor("IN", values("FP32", (1, 64)))], {}, 1),
        ("identity", [tensor("IN", values("FP32", (1, 63)))], {}, 1),
    ]
    expected = streamed(triton, requests)
    assert streamed(nextact, requests) == expected


BAD = {
    "shape": lambda: ("identity", [tensor("IN", values("FP32", (1, 63)))], {}),
    "rank": lambda: ("labels", [tensor("IN", values("FP32", (3,)))], {}),
    "datatype": lambda: ("identity", [tensor("IN", values("FP64", (1, 64)))], {}),
    "missing": lambda: ("caller", [tensor("IN", values("FP32", (1, 64)))], {}),
    "unknown input": lambda: ("identity", [tensor("NO", values("FP32", (1, 64)))], {}),
    "surplus": lambda: ("identity", [tensor("IN", values("FP32", (1, 64))), tensor("NO", values("FP32", (1, 64)))], {}),
    "no rows": lambda: ("identity", [tensor("IN", values("FP32", (0, 64)))], {}),
    "unknown model": lambda: ("nowhere", [tensor("IN", values("FP32", (1, 64)))], {}),
    "unknown version": lambda: ("identity", [tensor("IN", values("FP32", (1, 64)))], {"model_version": "7"}),
    "no version": lambda: ("identity", [tensor("IN", values("FP32", (1, 64)))], {"model_version": "first"}),
    "unknown output": lambda: (
        "identity",
        [tensor("IN", values("FP32", (1, 64)))],
        {"outputs": [grpcclient.InferRequestedOutput("NO")]},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_told_in_the_same_words(triton: Client, nextact: Client, name: str) -> None:
    model, inputs, options = BAD[name]()
    code, message = same(triton, nextact, model, inputs, **options)
    assert code
    assert message


@pytest.mark.parametrize("model", ["identity", "echo", "repeat", "accumulate_direct", "diamond"])
def test_metadata_and_tensors_of_the_config(triton: Client, nextact: Client, model: str) -> None:
    assert nextact.get_model_metadata(model) == triton.get_model_metadata(model)
    ours, theirs = nextact.get_model_config(model).config, triton.get_model_config(model).config
    for field in ("name", "platform", "backend", "max_batch_size", "input", "output", "version_policy"):
        assert getattr(ours, field) == getattr(theirs, field), field
    for field in ("sequence_batching", "ensemble_scheduling", "model_transaction_policy"):
        assert getattr(ours, field) == getattr(theirs, field), field
