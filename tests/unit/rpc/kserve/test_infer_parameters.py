"""Parameters of requests: what they mean, and what Triton 2.51 says of those that mean nothing."""

from typing import Any

import numpy as np
import pytest
from infer_fakes import client_request, infer_input, model_spec, raw_request, read

from nextact_server.inference.infer_errors import ErrorCode, InferError

Given = tuple[str, Any]


def told(**parameters: Given) -> tuple[ErrorCode, str]:
    with pytest.raises(InferError) as refused:
        read(model_spec(), raw_request(parameters=parameters))
    return refused.value.code, refused.value.message


def test_what_tritonclient_sets_arrives() -> None:
    message = client_request(
        "ident4",
        [infer_input(np.zeros((1, 4), np.float32), "FP32")],
        request_id="é <>&",
        sequence_id=7,
        sequence_start=True,
        priority=3,
        timeout=500,
        parameters={"temperature": 0.5, "top": 3, "name": "x", "flag": True},
    )
    found = read(model_spec(), message)
    assert (found.id, found.priority, found.timeout_us) == ("é <>&", 3, 500)
    assert (found.correlation_id, found.sequence_start, found.sequence_end) == (7, True, False)
    assert dict(found.parameters) == {"temperature": 0.5, "top": 3, "name": "x", "flag": True}


def test_without_parameters_nothing_is_set() -> None:
    found = read(model_spec(), raw_request())
    assert (found.id, found.priority, found.timeout_us, found.correlation_id) == ("", 0, 0, 0)
    assert not found.parameters
    assert not found.empty_final


@pytest.mark.parametrize(
    ("given", "expected"),
    [(("int64_param", -5), 2**64 - 5), (("string_param", "xyz"), "xyz"), (("string_param", "s" * 128), "s" * 128)],
)
def test_a_sequence_is_named_by_a_number_or_a_string(given: Given, expected: int | str) -> None:
    assert read(model_spec(), raw_request(parameters={"sequence_id": given})).correlation_id == expected


def test_a_sequences_name_has_at_most_128_characters() -> None:
    assert told(sequence_id=("string_param", "s" * 129)) == (
        ErrorCode.UNSUPPORTED,
        "string correlation ID cannot be longer than 128 characters",
    )


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("sequence_id", ("bool_param", True), "int64_param or string_param."),
        ("sequence_id", ("uint64_param", 5), "int64_param or string_param."),
        ("sequence_start", ("int64_param", 1), "bool_param."),
        ("sequence_end", ("string_param", "x"), "bool_param."),
        ("priority", ("string_param", "x"), "int64_param or uint64_param."),
        ("timeout", ("uint64_param", 5), "int64_param."),
        ("triton_enable_empty_final_response", ("int64_param", 1), "bool_param."),
        ("headers", ("uint64_param", 5), "int64_param, bool_param, or string_param."),
    ],
)
def test_a_parameter_of_the_wrong_type_is_told(name: str, given: Given, expected: str) -> None:
    assert told(**{name: given}) == (
        ErrorCode.INVALID_ARG,
        f"invalid value type for '{name}' parameter, expected {expected}",
    )


def test_a_parameter_without_a_value_has_the_wrong_type() -> None:
    message = raw_request()
    message.parameters["foo"].SetInParent()
    with pytest.raises(InferError, match="invalid value type for 'foo' parameter, expected int64_param, bool_param"):
        read(model_spec(), message)


def test_priorities_count_from_nothing() -> None:
    assert told(priority=("int64_param", -3))[1] == "invalid value for 'priority', expected value >= 0."
    assert read(model_spec(), raw_request(parameters={"priority": ("uint64_param", 5)})).priority == 5


def test_a_negative_timeout_shortens_nothing() -> None:
    assert read(model_spec(), raw_request(parameters={"timeout": ("int64_param", -3)})).timeout_us == 0


def test_names_that_begin_like_tritons_own_are_reserved() -> None:
    assert told(triton_foo=("int64_param", 1))[1] == (
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
        "'triton_' are allowed: triton_enable_empty_final_response"
    )


def test_parameters_of_one_request_are_not_the_next_ones() -> None:
    first = read(model_spec(), raw_request(parameters={"a": ("int64_param", 1)}))
    second = read(model_spec(), raw_request(parameters={"b": ("int64_param", 2)}))
    assert (dict(first.parameters), dict(second.parameters)) == ({"a": 1}, {"b": 2})
