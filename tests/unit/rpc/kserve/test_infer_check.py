"""What a request that does not fit its model is told, word by word as Triton 2.51 tells it."""

from collections.abc import Sequence

import numpy as np
import pytest
from infer_fakes import model_spec

from nextact_server.inference.infer_check import TensorHead, check, check_heads
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import ModelSpec, SequenceBatching, TensorSpec
from nextact_server.inference.tensors import DataType

FP32 = DataType.FP32
UNKNOWN = "[request id: <id_unknown>] "
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)
IDENT4 = model_spec()
IDENTITY = model_spec("identity", dims=(-1,), max_batch_size=32)
NOBATCH = model_spec("nobatch", dims=(2, 3), max_batch_size=0)
TWO_REQUIRED = model_spec(
    "two_req", inputs=(TensorSpec("A", FP32, (2,)), TensorSpec("B", FP32, (2,))), outputs=(TensorSpec("S", FP32, (2,)),)
)
TWO = model_spec("two", inputs=(TensorSpec("A", FP32, (2,)), TensorSpec("B", FP32, (2,), optional=True)))


def heads(*shaped: tuple[str, Sequence[int]], datatype: str = "FP32") -> list[TensorHead]:
    return [TensorHead(name, datatype, tuple(shape)) for name, shape in shaped]


def refusal(
    spec: ModelSpec, given: Sequence[TensorHead], outputs: Sequence[str] = (), request_id: str = ""
) -> InferError:
    with pytest.raises(InferError) as refused:
        check_heads(spec, given, outputs, request_id)
    assert refused.value.code is ErrorCode.INVALID_ARG
    return refused.value


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        (IDENT4, (4,), "[-1,4], got [4]. " + NOTE),
        (IDENT4, (1, 1, 4), "[-1,4], got [1,1,4]. " + NOTE),
        (IDENT4, (1, 3), "[-1,4], got [1,3]. " + NOTE),
        (IDENT4, (1, -4), "[-1,4], got [1,-4]. " + NOTE),
        (IDENTITY, (1, 1, 4), "[-1,-1], got [1,1,4]. " + NOTE),
        (NOBATCH, (1, 2, 3), "[2,3], got [1,2,3]. "),
        (NOBATCH, (3, 2), "[2,3], got [3,2]. "),
    ],
)
def test_a_shape_that_does_not_match_is_told_beside_the_one_expected(
    spec: ModelSpec, shape: Sequence[int], expected: str
) -> None:
    found = refusal(spec, heads(("IN", shape)))
    assert found.message == f"{UNKNOWN}unexpected shape for input 'IN' for model '{spec.name}'. Expected {expected}"


def test_the_requests_id_is_named() -> None:
    assert refusal(IDENT4, heads(("IN", (4,))), request_id="req7").message.startswith("[request id: req7] unexpected")


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (IDENT4, heads(("IN", ())), "input 'IN' has no shape but model requires batch dimension for 'ident4'"),
        (
            IDENTITY,
            heads(("IN", (1, -1))),
            "All input dimensions should be specified for input 'IN' for model 'identity', got [1,-1]",
        ),
        (
            TWO_REQUIRED,
            heads(("A", (1, 2)), ("B", (2, 2))),
            "input 'A' batch size does not match other inputs for 'two_req'",
        ),
        (
            IDENT4,
            heads(("IN", (1, 4)), datatype="INT32"),
            "inference input 'IN' data-type is 'INT32', but model 'ident4' expects 'FP32'",
        ),
        (
            IDENT4,
            heads(("IN", (1, 4)), datatype="float32"),
            "inference input 'IN' data-type is '<invalid>', but model 'ident4' expects 'FP32'",
        ),
        (IDENT4, heads(("IN", (1, 4)), ("IN", (1, 4))), "input 'IN' already exists in request"),
        (
            IDENT4,
            heads(("IN", (1, 4)), ("NOPE", (1, 4))),
            (
                "expected 1 inputs but got 2 inputs for model 'ident4'. Got input(s) ['NOPE','IN'], but missing "
                "required "
                "input(s) ]. Please provide all required input(s)."
            ),
        ),
        (
            IDENT4,
            [],
            (
                "expected 1 inputs but got 0 inputs for model 'ident4'. Got input(s) [], but missing required input(s) "
                "['IN']. Please provide all required input(s)."
            ),
        ),
        (
            TWO_REQUIRED,
            heads(("A", (1, 2))),
            (
                "expected 2 inputs but got 1 inputs for model 'two_req'. Got input(s) ['A'], but missing required "
                "input(s) "
                "['B']. Please provide all required input(s)."
            ),
        ),
        (
            TWO,
            [],
            (
                "expected number of inputs between 1 and 2 but got 0 inputs for model 'two'. Got input(s) [], but "
                "missing "
                "required input(s) ['A']. Please provide all required input(s)."
            ),
        ),
    ],
)
def test_what_does_not_fit_is_told_with_the_requests_id(
    spec: ModelSpec, given: Sequence[TensorHead], expected: str
) -> None:
    assert refusal(spec, given).message == UNKNOWN + expected


def test_unknown_names_are_told_without_the_requests_id() -> None:
    assert refusal(IDENT4, heads(("NOPE", (1, 4)))).message == "unexpected inference input 'NOPE' for model 'ident4'"
    # As many as there should be, one of them another.
    found = refusal(TWO_REQUIRED, heads(("A", (1, 2)), ("X", (1, 2))))
    assert found.message == "unexpected inference input 'X' for model 'two_req'"
    found = refusal(IDENT4, heads(("IN", (1, 3))), ["NOPE"])
    assert found.message == "unexpected inference output 'NOPE' for model 'ident4'"


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    decoupled = model_spec("dec", decoupled=True)
    sequence = model_spec("seq", schedule=SequenceBatching())
    for spec in (decoupled, sequence):
        found = refusal(spec, heads(("IN", (9, 4))))
        assert found.message == f"{UNKNOWN}inference request batch-size must be <= 8 for '{spec.name}'"
    # Fewer rows than that, though more than one, are for the sequence batcher to refuse, in words without the id.
    assert check_heads(sequence, heads(("IN", (2, 4))), []) == 2


def test_a_batch_that_can_be_split_passes_whatever_its_size() -> None:
    assert check_heads(IDENT4, heads(("IN", (9, 4))), []) == 9


def test_optional_inputs_may_be_left_out() -> None:
    assert check_heads(TWO, heads(("A", (3, 2))), []) == 3
    everything_optional = model_spec(inputs=(TensorSpec("IN", FP32, (4,), optional=True),))
    assert check_heads(everything_optional, [], ["OUT"]) == 1


def test_arrays_are_checked_like_messages() -> None:
    assert check(IDENT4, {"IN": np.zeros((3, 4), np.float32)}, ["OUT"]) == 3
    assert check(NOBATCH, {"IN": np.zeros((2, 3), np.float32)}, []) == 1
    names = model_spec("names", "BYTES", (1,))
    assert check(names, {"IN": np.array([[b"a"]], np.object_)}, []) == 1
    assert check(names, {"IN": np.array([["a"]])}, []) == 1
    with pytest.raises(InferError, match="data-type is '<invalid>'"):
        check(IDENT4, {"IN": np.zeros((1, 4), np.complex64)}, [])
    with pytest.raises(InferError, match="batch-size must be > 0"):
        check(IDENT4, {"IN": np.zeros((0, 4), np.float32)}, [])


def test_the_shape_that_callers_know_is_checked_not_the_models_own() -> None:
    reshaped = model_spec("reshape", inputs=(TensorSpec("IN", FP32, (2,), reshape=(1, 2)),))
    assert check_heads(reshaped, heads(("IN", (1, 2))), []) == 1
    assert "Expected [-1,2], got [1,1,2]" in refusal(reshaped, heads(("IN", (1, 1, 2)))).message
