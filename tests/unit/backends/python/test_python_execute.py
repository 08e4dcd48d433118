"""What execute may return, and what its caller is told."""

import json

import numpy as np
import pytest
from python_house import House, Sink, X, ask, execute, request_of, strings

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.infer_spec import SequenceBatching, SequenceState
from nextact_server.inference.tensors import DataType

ECHO = """
return [
    pb_utils.InferenceResponse([pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())])
    for r in requests
]
"""
PREFIX = "Failed to process the request(s) for model 'm_0', message: "


def error_of(sink: Sink) -> InferError:
    ((response, final),) = sink.wait()
    assert final
    assert isinstance(response, InferError)
    return response


def test_identity_answers_every_request_of_a_batch_in_order(house: House) -> None:
    model = house.model("m", ECHO)
    sinks = [Sink() for _ in range(5)]
    execute(model, [request_of(sink, X * number) for number, sink in enumerate(sinks)])
    assert [sink.value() for sink in sinks] == [(X * number).reshape(-1).tolist() for number in range(5)]


def test_a_model_may_write_into_its_inputs_and_nobody_else_sees_it(house: House) -> None:
    model = house.model("m", "requests[0].inputs()[0].as_numpy()[:] = 9\n" + ECHO)
    given = X.copy()
    assert ask(model, given).value() == [9, 9, 9, 9]
    assert given.tolist() == X.tolist()


def test_the_request_tells_a_model_everything_about_itself(house: House) -> None:
    model = house.model(
        "m",
        """
        r = requests[0]
        told = [
            r.request_id(), r.correlation_id(), r.flags(), r.timeout(), r.priority(), json.loads(r.parameters()),
            sorted(r.requested_output_names()), r.is_cancelled(), [t.name() for t in r.inputs()],
            r.inputs()[0] is pb_utils.get_input_tensor_by_name(r, "IN"), r.inputs()[0].as_numpy().flags.writeable,
            r.inputs()[0].shape(), r.inputs()[0].is_cpu(), r.inputs()[0].triton_dtype(),
            pb_utils.get_input_tensor_by_name(r, "NOPE"), isinstance(r, pb_utils.InferenceRequest),
        ]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(told)], object))])]
        """,
    )
    more = {"id": "7", "priority": 2, "timeout_us": 5, "correlation_id": "abc", "sequence_start": True}
    (told,) = ask(model, parameters={"a": 1, "b": "x", "c": True}, sequence_end=True, **more).value()
    expected = [
        "7",
        "abc",
        3,
        5,
        2,
        {"a": 1, "b": "x", "c": True},
        ["OUT"],
        False,
        ["IN"],
        True,
        True,
        [1, 4],
        True,
        11,
    ]
    assert json.loads(told) == [*expected, None, True]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('went wrong')", PREFIX + "ValueError: went wrong\n\nAt:\n  {file}(6): execute\n"),
        ("import sys; sys.exit(3)", PREFIX + "SystemExit: 3\n\nAt:\n  {file}(6): execute\n"),
        (
            "raise pb_utils.TritonModelException('mine')",
            PREFIX + "TritonModelException: mine\n\nAt:\n  {file}(6): execute\n",
        ),
        (
            "return []",
            PREFIX
            + "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            + "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n",
        ),
        ("return 'x'", PREFIX + "Expected a list in the execute return, found type '<class 'str'>'."),
        ("return None", PREFIX + "Expected a list in the execute return, found type '<class 'NoneType'>'."),
        (
            "return [42]",
            PREFIX
            + "Expected an 'InferenceResponse' object in the execute function return list, found type '<class 'int'>'.",
        ),
    ],
)
def test_a_model_that_fails_is_an_internal_error_in_tritons_words(house: House, body: str, message: str) -> None:
    model = house.model("m", body)
    error = error_of(ask(model))
    assert error.code is ErrorCode.INTERNAL
    assert error.message == message.format(file=house.root / "m/1/model.py")


def test_the_next_request_works_after_one_that_failed(house: House) -> None:
    model = house.model("m", "if requests[0].request_id() == 'bad': raise ValueError('no')\n" + ECHO)
    assert isinstance(error_of(ask(model, id="bad")), InferError)
    assert ask(model).value() == X.reshape(-1).tolist()


def test_a_model_without_execute_loads_and_fails_each_request(house: House) -> None:
    model = house.load("m", "class TritonPythonModel: pass\n")
    file = house.root / "m/1/model.py"
    assert error_of(ask(model)).message == f"{PREFIX}Python model {file} does not implement `execute` method."


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UNKNOWN", ErrorCode.UNKNOWN),
        ("INTERNAL", ErrorCode.INTERNAL),
        ("NOT_FOUND", ErrorCode.NOT_FOUND),
        ("INVALID_ARG", ErrorCode.INVALID_ARG),
        ("UNAVAILABLE", ErrorCode.UNAVAILABLE),
        ("UNSUPPORTED", ErrorCode.UNSUPPORTED),
        ("ALREADY_EXISTS", ErrorCode.ALREADY_EXISTS),
        ("CANCELLED", ErrorCode.CANCELLED),
    ],
)
def test_a_models_own_error_reaches_the_caller_with_its_code(house: House, name: str, code: ErrorCode) -> None:
    error = f"pb_utils.TritonError('told you so', pb_utils.TritonError.{name})"
    model = house.model("m", f"return [pb_utils.InferenceResponse(error={error}) for r in requests]")
    found = error_of(ask(model))
    assert (found.code, found.message) == (code, "told you so")


def test_an_error_beside_answers_fails_only_its_own_request(house: House) -> None:
    model = house.model(
        "m",
        """
        made = [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
        made[1] = pb_utils.InferenceResponse(made[1].output_tensors(), pb_utils.TritonError("second"))
        assert made[1].has_error() and made[1].error().message() == "second"
        assert str(made[1].error().code()) == "__ErrorCode.INTERNAL"
        return made
        """,
    )
    sinks = [Sink() for _ in range(3)]
    execute(model, [request_of(sink) for sink in sinks])
    assert [sink.value() for sink in sinks] == [[1, 2, 3, 4], "second", [1, 2, 3, 4]]


THREE = """
made = [pb_utils.Tensor(name, np.zeros((2, 2), np.int32)) for name in ("OUT", "EXTRA", "STATE_OUT")]
return [pb_utils.InferenceResponse(made, parameters={"a": 1, "b": True, "c": "x", "d": 1.5}) for _ in requests]
"""


def test_outputs_that_the_config_lacks_are_dropped_and_shapes_and_dtypes_pass(house: House) -> None:
    ((response, _),) = ask(house.model("m", THREE)).wait()
    assert isinstance(response, InferResponse)
    assert list(response.outputs) == ["OUT"]
    assert (response.outputs["OUT"].shape, response.outputs["OUT"].dtype) == ((2, 2), np.int32)
    assert response.parameters == {"a": 1, "b": True, "c": "x", "d": 1.5}


def test_a_request_gets_the_outputs_that_it_asks_for_and_a_sequence_its_state(house: House) -> None:
    states = (SequenceState("STATE_IN", "STATE_OUT", DataType.INT32, (1,)),)
    model = house.model("m", THREE, schedule=SequenceBatching(states=states))
    ((response, _),) = ask(model, output_names=("NOTHING",)).wait()
    assert isinstance(response, InferResponse)
    assert list(response.outputs) == ["STATE_OUT"]


def test_only_stateless_models_that_answer_by_returning_may_be_run_again(house: House) -> None:
    assert house.model("m", ECHO).retry_safe
    assert not house.model("s", ECHO, schedule=SequenceBatching()).retry_safe
    assert not house.decoupled("d", "pass").retry_safe


@pytest.mark.parametrize(
    "made",
    [
        "np.array(['ü', b'x', 3], object)",
        "np.array([b'\\xc3\\xbc', b'x', b'3'], object)",
        "np.array([b'\\xc3\\xbc', b'x', b'3'])",
        "np.array(['ü', 'x', '3'])",
    ],
)
def test_strings_of_every_kind_become_bytes(house: House, made: str) -> None:
    model = house.model("m", f"return [pb_utils.InferenceResponse([pb_utils.Tensor('OUT', {made})])]")
    assert ask(model).value() == ["ü".encode(), b"x", b"3"]


def test_bytes_come_to_a_model_as_an_array_of_bytes(house: House) -> None:
    model = house.model("m", "assert requests[0].inputs()[0].as_numpy().dtype == object\n" + ECHO)
    assert ask(model, strings([b"a", b"\0b\0"])).value() == [b"a", b"\0b\0"]


def test_a_coroutine_may_execute(house: House) -> None:
    code = """
    import asyncio
    class TritonPythonModel:
        async def execute(self, requests):
            await asyncio.sleep(0)
            if requests[0].request_id(): raise ValueError("async")
            return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", r.inputs()[0].as_numpy())]) for r in requests]
    """
    model = house.load("m", code)
    assert ask(model).value() == [1, 2, 3, 4]
    assert "ValueError: async\n\nAt:" in ask(model, id="x").value()


def test_times_are_measured_where_they_are_spent(house: House) -> None:
    from nextact_server.inference.instance import StageTimes

    times = StageTimes()
    house.model("m", ECHO).execute([request_of(Sink())], times)
    assert min(times.input_ns, times.infer_ns, times.output_ns) > 0
