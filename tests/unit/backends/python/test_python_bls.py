"""Models that ask other models of the server."""

import threading
from typing import Any

import numpy as np
import pytest
from python_house import House, ask, strings

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument, unavailable
from nextact_server.inference.infer_request import InferRequest, InferResponse

ASK = """
def question(name="other", **more):
    x = pb_utils.Tensor("IN", np.ones((1, 2), np.float32))
    return pb_utils.InferenceRequest(model_name=name, requested_output_names=["OUT"], inputs=[x], **more)
def says(value):
    return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([json.dumps(value)]))])]
"""


def doubled(request: InferRequest) -> None:
    request.respond(InferResponse({"OUT": request.inputs["IN"] * 2}))


def bls(house: House, body: str, name: str = "m") -> Any:
    import json
    from textwrap import dedent, indent

    code = ASK + "class TritonPythonModel:\n    def execute(self, requests):\n" + indent(dedent(body), " " * 8)
    sink = ask(house.load(name, code))
    (value,) = sink.value()
    return json.loads(value) if isinstance(value, bytes) else sink.value()


def test_exec_gives_the_other_models_answer(house: House) -> None:
    house.door.add("other", doubled)
    told = bls(
        house,
        """
        more = dict(request_id="q", correlation_id="s", flags=3, timeout=5, priority=2, parameters={"a": True})
        memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        response = question(model_version=7, preferred_memory=memory, trace=requests[0].trace(), **more).exec()
        out = pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()
        return says([response.has_error(), out.tolist(), pb_utils.get_output_tensor_by_name(response, "NO")])
        """,
    )
    assert told == [False, [[2, 2]], None]
    ((name, version, request),) = house.door.asked
    assert (name, version, request.id, request.correlation_id, request.timeout_us) == ("other", "7", "q", "s", 5)
    assert (request.sequence_start, request.sequence_end, request.priority) == (True, True, 2)
    assert (request.parameters, tuple(request.output_names)) == ({"a": True}, ("OUT",))


def test_the_same_request_may_be_sent_twice_and_its_inputs_stay(house: House) -> None:
    house.door.add("other", doubled)
    told = bls(
        house,
        """
        q = question()
        values = []
        for _ in range(2):
            array = q.exec().output_tensors()[0].as_numpy()
            array += 1
            values.append(array.tolist())
        return says(values)
        """,
    )
    assert told == [[[3, 3]], [[3, 3]]]


def test_strings_go_to_another_model_as_bytes(house: House) -> None:
    house.door.add("other", lambda request: request.respond(InferResponse({"OUT": strings([b"x"])})))
    bls(
        house,
        """
        x = pb_utils.Tensor("IN", np.array(["ü", b"b", 3], dtype=object))
        q = pb_utils.InferenceRequest(model_name="other", requested_output_names=[], inputs=[x])
        return says(q.exec().output_tensors()[0].as_numpy().tolist()[0].decode())
        """,
    )
    assert house.door.asked[0][2].inputs["IN"].tolist() == ["ü".encode(), b"b", b"3"]


def test_the_other_model_runs_on_threads_of_its_own_while_exec_waits(house: House) -> None:
    def later(request: InferRequest) -> None:
        threading.Thread(target=doubled, args=(request,)).start()

    house.door.add("other", later)
    assert bls(house, "return says(question().exec().output_tensors()[0].as_numpy().tolist())") == [[2, 2]]


NOT_READY = (
    "Model {0} - Error when running inference: Failed for execute the inference request. Model '{0}' is not ready."
)


@pytest.mark.parametrize("how", ["q.exec()", "list(q.exec(decoupled=True))[0]"])
def test_why_a_model_could_not_be_asked_is_the_response(house: House, how: str) -> None:
    def refuse(request: InferRequest) -> None:
        raise invalid_argument("unexpected shape")

    def away(request: InferRequest) -> None:
        raise unavailable("loading")

    house.door.add("refuses", refuse)
    house.door.add("away", away)
    told = bls(
        house,
        f"""
        found = []
        for q in [question("nosuch"), question("away"), question("refuses")]:
            error = ({how}).error()
            found.append([error.message(), str(error.code())])
        return says(found)
        """,
    )
    internal = "__ErrorCode.INTERNAL"
    assert told == [
        [NOT_READY.format("nosuch"), internal],
        [NOT_READY.format("away"), internal],
        ["Model refuses - Error when running inference: unexpected shape", internal],
    ]


def test_an_error_of_the_other_model_comes_with_its_code(house: House) -> None:
    house.door.add("other", lambda request: request.respond(InferError(ErrorCode.CANCELLED, "was cancelled")))
    told = bls(
        house, "e = question().exec().error()\nreturn says([e.message(), e.code() == pb_utils.TritonError.CANCELLED])"
    )
    assert told == ["was cancelled", True]


def three(request: InferRequest) -> None:
    for number in range(2):
        request.respond(InferResponse({"OUT": np.array([number])}), final=False)
    request.respond(None)


def test_responses_of_a_decoupled_model_are_iterated_over_to_the_empty_last_one(house: House) -> None:
    house.door.add("other", three, decoupled=True)
    told = bls(
        house,
        """
        responses = question().exec(decoupled=True)
        first = [[t.as_numpy().tolist() for t in r.output_tensors()] for r in responses]
        again = len(list(responses))
        try:
            next(responses)
        except StopIteration as stop:
            return says([first, again, str(stop)])
        """,
    )
    assert told == [[[[0]], [[1]], []], 3, "Iteration is done for the responses."]


def test_a_decoupled_model_asked_for_one_response_says_how_to_ask(house: House) -> None:
    house.door.add("other", three, decoupled=True)
    told = bls(house, "return says(question().exec().error().message())")
    assert told == (
        "Model other - Error when running inference: Model other is using the decoupled. The current BLS request call "
        "doesn't support models using the decoupled transaction policy. Please use 'decoupled=True' argument to the "
        "'exec' or 'async_exec' calls for decoupled models.'"
    )


def test_async_exec_is_awaited_several_at_once(house: House) -> None:
    house.door.add("other", lambda request: threading.Thread(target=doubled, args=(request,)).start())
    house.door.add("many", three, decoupled=True)
    code = (
        ASK
        + """
import asyncio
class TritonPythonModel:
    async def execute(self, requests):
        names = ["other", "other", "nosuch"]
        answers = await asyncio.gather(*[question(name).async_exec() for name in names])
        many = await question("many").async_exec(decoupled=True)
        return says([[a.has_error() for a in answers], len(list(many))])
"""
    )
    assert ask(house.load("m", code)).value() == [b"[[false, false, true], 3]"]


def test_a_model_that_asks_itself_with_no_other_instance_is_told_instead_of_waiting_for_ever(house: House) -> None:
    house.door.add("m", doubled)
    told = bls(house, "return says(question('m').exec().error().message())")
    assert "asks itself while its only instance is busy" in told
    assert house.door.asked == []


def test_a_thread_of_the_model_may_ask_the_model_itself(house: House) -> None:
    house.door.add("m", doubled)
    told = bls(
        house,
        """
        found = []
        thread = threading.Thread(target=lambda: found.append(question("m").exec().has_error()))
        thread.start()
        thread.join()
        return says(found)
        """,
    )
    assert told == [False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("pb_utils.InferenceRequest()", "TypeError", "__init__(): incompatible constructor arguments."),
        ("question(correlation_id=1.5)", "TritonModelException", "Correlation ID must be integer or string"),
        ("question(parameters=[1])", "TritonModelException", "Expect dict, got <class 'list'>"),
        (
            "question(parameters={1: 2})",
            "TritonModelException",
            "Expect parameters keys to have type str, found type <class 'int'>",
        ),
        (
            "question(parameters={'a': 1.5})",
            "TritonModelException",
            "Expect parameters values to have type bool/int/str, found type <class 'float'>",
        ),
        (
            "pb_utils.InferenceRequest(model_name='o', requested_output_names=[''], inputs=[])",
            "TritonModelException",
            "Requested output name for request with id '' and model name 'o' should not be empty.",
        ),
    ],
)
def test_a_request_that_makes_no_sense_cannot_be_made(house: House, call: str, error: str, message: str) -> None:
    told = bls(
        house,
        f"""
        try:
            {call}
        except Exception as error:
            return says([type(error).__name__, str(error)])
        """,
    )
    assert told[0] == error
    assert told[1].startswith(message)


def test_other_models_are_not_asked_before_the_model_is_initialized(house: House) -> None:
    code = (
        ASK
        + """
class TritonPythonModel:
    def initialize(self, args):
        try:
            question().exec()
        except pb_utils.TritonModelException as error:
            self.said = str(error)
"""
    )
    assert house.load("m", code)._model.said == "BLS is only supported during the 'execute' function."


def test_models_are_loaded_unloaded_and_looked_at(house: House) -> None:
    house.door.add("there", doubled)
    told = bls(
        house,
        """
        found = [pb_utils.is_model_ready("there"), pb_utils.is_model_ready(model_name="nope", model_version="1")]
        pb_utils.load_model("a")
        pb_utils.load_model(model_name="b", config="{}", files={"file:1/model.py": b"x"})
        pb_utils.unload_model("c", unload_dependents=True)
        for wrong in (lambda: pb_utils.load_model("bad"), lambda: pb_utils.load_model("a", files=[1])):
            try:
                wrong()
            except pb_utils.TritonModelException as error:
                found.append(str(error))
        return says(found)
        """,
    )
    assert told == [
        True,
        False,
        "Failed to load model: Failed to process the request for model 'm_0', message: no such thing",
        "failed to load model 'a', files should be a dictionary of file paths and file contents",
    ]
    assert house.door.calls == [
        ("load", "a", None, None),
        ("load", "b", "{}", {"file:1/model.py": b"x"}),
        ("unload", "c", True),
    ]
