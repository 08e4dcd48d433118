"""ModelInfer, call by call and in bursts: who is asked, and what becomes of failures and replaced versions."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import numpy as np
import pytest
from infer_fakes import Answering, Decoupled, Held, Models, RetiredModel, model_spec, raw_request, served, service_for
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.repository.served import Retired, ServedModel
from nextact_server.rpc.errors import CallError, as_call_error
from nextact_server.rpc.kserve.infer import InferService
from nextact_server.rpc.kserve.infer_burst import InferBurst

FOUR = np.arange(4, dtype=np.float32)
PAYLOAD = raw_request(raw=[FOUR.tobytes()], id="r").SerializeToString()


def run(call: Coroutine[Any, Any, bytes]) -> pb.ModelInferResponse:
    return pb.ModelInferResponse.FromString(asyncio.run(call))


def failure(service: InferService, payload: bytes = PAYLOAD) -> CallError:
    """What a call is told over gRPC."""
    with pytest.raises((InferError, CallError)) as failed:
        asyncio.run(service.model_infer(payload))
    return as_call_error(failed.value)


class Replaced(Models):
    """Gives out a version that is retired by the time it is asked, a few times, then one that answers."""

    def __init__(self, *versions: ServedModel) -> None:
        super().__init__(versions[-1])
        self._versions = list(versions)

    def get(self, name: str, version: str) -> ServedModel:
        return self._versions.pop(0) if len(self._versions) > 1 else self._versions[0]


def retired(version_dims: int = 4) -> ServedModel:
    nothing: Any = None
    return RetiredModel(model_spec(dims=(version_dims,)), nothing, ModelStatistics(), Held())


# Call by call ---------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_by_its_model() -> None:
    found = run(service_for(served(model_spec(), Answering())).model_infer(PAYLOAD))
    assert (found.model_name, found.model_version, found.id) == ("ident4", "1", "r")
    assert found.raw_output_contents[0] == FOUR.tobytes()


def test_an_answer_may_come_from_any_thread() -> None:
    held = Held()
    service = service_for(served(model_spec(), held))

    async def call() -> bytes:
        asked = asyncio.ensure_future(service.model_infer(PAYLOAD))
        await asyncio.sleep(0)
        (request,) = held.requests
        threading.Thread(target=request.respond, args=[InferResponse({"OUT": FOUR})]).start()
        return await asked

    assert run(call()).raw_output_contents[0] == FOUR.tobytes()


def test_a_model_may_say_separately_that_it_has_answered() -> None:
    class Twice:
        def submit(self, requests: list[InferRequest]) -> None:
            for request in requests:
                request.respond(InferResponse({"OUT": FOUR}), final=False)
                request.respond(None)

    assert run(service_for(served(model_spec(), Twice())).model_infer(PAYLOAD)).outputs[0].name == "OUT"


def test_a_model_that_says_only_that_it_is_done_has_failed() -> None:
    class Silent:
        def submit(self, requests: list[InferRequest]) -> None:
            for request in requests:
                request.respond(None)

    found = failure(service_for(served(model_spec(), Silent())))
    assert (found.code, found.message) == (grpc.StatusCode.INTERNAL, "model 'ident4' gave no response")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_models_error_comes_with_its_code_and_text_as_they_are(code: ErrorCode) -> None:
    text = f"told you so: {code.name}\n\nAt:\n  model.py(4): execute\n" + "x" * 2000
    found = failure(service_for(served(model_spec(), Answering(lambda _: InferError(code, text)))))
    assert (found.code.name, found.message) == (code.value, text)


def test_very_long_texts_are_cut_to_what_a_client_takes() -> None:
    for text in ("é" * 10_000, "x" * 10_000):
        found = failure(service_for(served(model_spec(), Answering(lambda _, text=text: internal(text)))))
        assert found.message.endswith("...")
        assert len(found.message.encode()) <= 4003


def test_an_unknown_model_is_not_found() -> None:
    found = failure(service_for(), raw_request("nosuch").SerializeToString())
    assert (found.code.name, found.message) == ("NOT_FOUND", "Request for unknown model: 'nosuch' is not found")


def test_a_decoupled_model_needs_a_stream_whatever_else_is_wrong() -> None:
    service = service_for(served(model_spec(decoupled=True), Decoupled()))
    for payload in (PAYLOAD, raw_request(raw=[b"wrong"]).SerializeToString()):
        found = failure(service, payload)
        assert found.code is grpc.StatusCode.UNIMPLEMENTED
        assert found.message == "ModelInfer RPC doesn't support models with decoupled transaction policy"


def test_broken_bytes_are_the_callers_mistake() -> None:
    assert failure(service_for(), b"\xff\xff").code is grpc.StatusCode.INVALID_ARGUMENT
    payload = PAYLOAD.replace(b"\x1a\x01r", b"\x1a\x01\xff")
    assert failure(service_for(served(model_spec(), Answering())), payload).code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_cancelled_call_cancels_its_request() -> None:
    held = Held()
    service = service_for(served(model_spec(), held))

    async def call() -> None:
        asked = asyncio.ensure_future(service.model_infer(PAYLOAD))
        await asyncio.sleep(0)
        (request,) = held.requests
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert request.is_cancelled
        request.respond(InferResponse({"OUT": FOUR}))  # too late, and nobody minds

    asyncio.run(call())


def test_a_version_that_was_replaced_meanwhile_is_looked_up_again() -> None:
    service = service_for()
    service.reader._models = Replaced(retired(), retired(), served(model_spec(), Answering()))
    assert run(service.model_infer(PAYLOAD)).raw_output_contents[0] == FOUR.tobytes()


def test_a_replacement_that_takes_other_inputs_says_so() -> None:
    service = service_for()
    service.reader._models = Replaced(retired(), served(model_spec(dims=(5,)), Answering()))
    found = failure(service)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Expected [-1,5], got [1,4]" in found.message


def test_a_version_that_is_gone_for_good_is_unavailable() -> None:
    found = failure(service_for(retired()))
    assert found.code is grpc.StatusCode.UNAVAILABLE
    assert found.message == "Request for unknown model: 'ident4' version 1 is not at ready state"


def test_the_same_bytes_are_checked_again_for_another_version() -> None:
    service = service_for(served(model_spec(), Answering()))
    run(service.model_infer(PAYLOAD))
    service.reader._models.by_name["ident4"] = served(model_spec(dims=(5,)), Answering())  # type: ignore[attr-defined]
    assert "Expected [-1,5], got [1,4]" in failure(service).message


# In bursts ------------------------------------------------------------------------------------------------------------


class Answers:
    """What a front was told."""

    def __init__(self) -> None:
        self.responses: dict[int, pb.ModelInferResponse] = {}
        self.failures: dict[int, CallError] = {}

    def respond(self, call_id: int, response: bytes) -> None:
        self.responses[call_id] = pb.ModelInferResponse.FromString(response)

    def fail(self, call_id: int, error: CallError) -> None:
        self.failures[call_id] = error


class Burst:
    """A burst door over one model that a test answers by hand, and another."""

    def __init__(self) -> None:
        self.held, self.other = Held(), Held()
        models = (served(model_spec(), self.held), served(model_spec("other"), self.other))
        self.answers = Answers()
        self.door = InferBurst(service_for(*models), self.answers)

    def start(self, *call_ids: int, model: Callable[[int], str] = lambda _: "ident4") -> None:
        self.door.start(
            {
                call_id: self.door.read(raw_request(model(call_id), id=str(call_id)).SerializeToString())
                for call_id in call_ids
            }
        )


def test_calls_of_one_burst_go_to_their_model_together() -> None:
    burst = Burst()
    burst.start(1, 2, 3)
    assert [len(together) for together in burst.held.submitted] == [3]
    burst.start(4, 5, 6, model=lambda call_id: "other" if call_id == 5 else "ident4")
    assert [[request.id for request in together] for together in burst.held.submitted[1:]] == [["4", "6"]]
    assert [request.id for request in burst.other.requests] == ["5"]


def test_each_call_gets_its_own_answer() -> None:
    burst = Burst()
    burst.start(1, 2)
    first, second = burst.held.requests
    second.respond(InferResponse({"OUT": FOUR}))
    assert list(burst.answers.responses) == [2]
    first.respond(internal("only this one"))
    assert burst.answers.responses[2].id == "2"
    assert burst.answers.failures[1].message == "only this one"


def test_an_answer_that_cannot_be_written_is_an_error() -> None:
    burst = Burst()
    burst.start(1)
    burst.held.requests[0].respond(InferResponse({"OUT": FOUR.astype(np.complex64)}))
    assert burst.answers.failures[1].code is grpc.StatusCode.INTERNAL


def test_cancelling_one_call_leaves_the_others_whole() -> None:
    burst = Burst()
    burst.start(1, 2)
    assert burst.door.cancel(1)
    assert not burst.door.cancel(1)
    assert not burst.door.cancel(99)
    first, second = burst.held.requests
    assert (first.is_cancelled, second.is_cancelled) == (True, False)
    second.respond(InferResponse({"OUT": FOUR}))
    assert list(burst.answers.responses) == [2]


def test_a_burst_does_not_wait_for_a_slow_model() -> None:
    burst = Burst()
    burst.start(1)
    burst.door.wait()


def test_whoever_stops_the_server_waits_for_open_calls() -> None:
    burst = Burst()

    async def stop() -> None:
        assert burst.door.unanswered() == []
        burst.start(1, 2)
        (unanswered,) = burst.door.unanswered()
        burst.held.requests[0].respond(InferResponse({"OUT": FOUR}))
        await asyncio.sleep(0)
        assert not unanswered.done()
        burst.held.requests[1].respond(InferResponse({"OUT": FOUR}))
        await unanswered
        assert burst.door.unanswered() == []

    asyncio.run(stop())


def test_calls_that_are_given_up_end_with_that_status_and_are_cancelled() -> None:
    burst = Burst()
    burst.start(1, 2)
    burst.door.abandon(CallError(grpc.StatusCode.UNAVAILABLE, "stopping"))
    assert {call_id: error.message for call_id, error in burst.answers.failures.items()} == {
        1: "stopping",
        2: "stopping",
    }
    assert all(request.is_cancelled for request in burst.held.requests)


def test_a_replaced_version_is_looked_up_again_for_a_burst_too() -> None:
    held, answers = Held(), Answers()
    service = service_for()
    service.reader._models = Replaced(retired(), served(model_spec(), held))
    door = InferBurst(service, answers)
    door.start({1: door.read(PAYLOAD)})
    (request,) = held.requests
    request.respond(InferResponse({"OUT": request.inputs["IN"]}))
    assert answers.responses[1].raw_output_contents[0] == FOUR.tobytes()
    with pytest.raises(Retired):
        retired().infer([])
