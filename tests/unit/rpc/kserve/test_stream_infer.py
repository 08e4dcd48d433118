"""ModelStreamInfer, message by message as Triton 2.51 sends them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from infer_fakes import MAX_BYTES, Answering, Decoupled, Held, Models, model_spec, raw_request, served
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import internal
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.repository.served import ServedModel
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.errors import CallError
from nextact_server.rpc.kserve.infer import InferService
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.stream import END, MAX_IN_FLIGHT

FINAL = "triton_final_response"
EMPTY_FINAL = {"triton_enable_empty_final_response": ("bool_param", True)}
DEC = model_spec("dec", "INT32", (1,), 0, decoupled=True)
FOUR = np.arange(4, dtype=np.float32)


class Context:
    """A stream's two ends: what the client sent, and what it got."""

    def __init__(self, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._metadata = metadata
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._got: asyncio.Queue[pb.ModelStreamInferResponse] = asyncio.Queue()
        self.reads = 0

    def send(self, *messages: pb.ModelInferRequest | bytes) -> None:
        for message in messages:
            self._sent.put_nowait(message if isinstance(message, bytes) else message.SerializeToString())

    def finish(self) -> None:
        self._sent.put_nowait(END)

    async def next(self) -> pb.ModelStreamInferResponse:
        return await asyncio.wait_for(self._got.get(), 10)

    @property
    def rest(self) -> list[pb.ModelStreamInferResponse]:
        """What came and was not looked at yet."""
        return [self._got.get_nowait() for _ in range(self._got.qsize())]

    async def read(self) -> Any:
        message = await self._sent.get()
        self.reads += 1
        return message

    async def write(self, message: bytes) -> None:
        self._got.put_nowait(pb.ModelStreamInferResponse.FromString(message))

    def invocation_metadata(self) -> Any:
        return self._metadata


class Stream:
    """A stream being served over some models."""

    def __init__(
        self, models: Sequence[ServedModel], metadata: Sequence[tuple[str, str]] = (), max_bytes: int = MAX_BYTES
    ) -> None:
        self.context = Context(metadata)
        self.admission = Admission(max_bytes)
        service = InferService(Models(*models), SharedMemory(), self.admission)
        self.task = asyncio.ensure_future(service.stream(self.context))

    async def finish(self) -> list[pb.ModelStreamInferResponse]:
        """Ends the client's side, and gives what came until the server's end."""
        self.context.finish()
        await asyncio.wait_for(self.task, 10)
        return self.context.rest


def exchange(
    models: Sequence[ServedModel], *messages: pb.ModelInferRequest | bytes, **options: Any
) -> list[pb.ModelStreamInferResponse]:
    """All responses to messages that are sent at once."""

    async def talk() -> list[pb.ModelStreamInferResponse]:
        stream = Stream(models, **options)
        stream.context.send(*messages)
        return await stream.finish()

    return asyncio.run(talk())


def talk(scene: Callable[[], Awaitable[None]]) -> None:
    async def play() -> None:
        await asyncio.wait_for(scene(), 20)

    asyncio.run(play())


def count(number: int, **fields: Any) -> pb.ModelInferRequest:
    return raw_request("dec", [("IN", "INT32", (1,))], [np.int32(number).tobytes()], **fields)


def told(response: pb.ModelStreamInferResponse) -> tuple[str, str, str, bool | None]:
    """Error, id, version and whether it says to be the last."""
    inner = response.infer_response
    final = inner.parameters[FINAL].bool_param if FINAL in inner.parameters else None
    return response.error_message, inner.id, inner.model_version, final


def ident(scheduler: Any = None, name: str = "ident4") -> ServedModel:
    return served(model_spec(name), scheduler or Answering())


# What is sent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [None, EMPTY_FINAL])
def test_a_models_only_response_is_its_final_one(parameters: Any) -> None:
    found = exchange([ident()], raw_request(id="a", parameters=parameters), raw_request(id="b"))
    assert [told(each) for each in found] == [("", "a", "1", True), ("", "b", "1", True)]
    assert found[0].infer_response.raw_output_contents[0] == bytes(16)


def test_a_decoupled_models_responses_say_that_more_may_come() -> None:
    found = exchange([served(DEC, Decoupled())], count(2, id="d"))
    assert [told(each) for each in found] == [("", "d", "1", False), ("", "d", "1", False)]
    assert [each.infer_response.raw_output_contents[0][0] for each in found] == [0, 1]


def test_the_end_of_a_decoupled_request_is_told_to_whoever_asks() -> None:
    found = exchange([served(DEC, Decoupled())], count(1, id="d", parameters=EMPTY_FINAL), count(0, id="e"))
    assert [told(each) for each in found] == [("", "d", "1", False), ("", "d", "", True)]
    assert found[1].infer_response.model_name == "dec"
    assert not found[1].infer_response.outputs


def test_a_decoupled_models_last_response_may_be_its_end() -> None:
    class LastOne:
        def submit(self, requests: Sequence[InferRequest]) -> None:
            for request in requests:
                request.respond(InferResponse({"OUT": np.int32([7])}))

    found = exchange([served(DEC, LastOne())], count(0, id="d", parameters=EMPTY_FINAL))
    assert [told(each) for each in found] == [("", "d", "1", True)]


def test_an_error_among_a_decoupled_models_responses_is_one_of_them() -> None:
    class Failing:
        def submit(self, requests: Sequence[InferRequest]) -> None:
            for request in requests:
                request.respond(InferResponse({"OUT": np.int32([0])}), final=False)
                request.respond(internal("dec error"), final=False)
                request.respond(InferResponse({"OUT": np.int32([2])}), final=False)
                request.respond(None)

    found = exchange([served(DEC, Failing())], count(0, id="d", parameters=EMPTY_FINAL))
    assert [told(each) for each in found] == [
        ("", "d", "1", False),
        ("dec error", "d", "", False),
        ("", "d", "1", False),
        ("", "d", "", True),
    ]
    assert found[1].infer_response.model_name == "dec"


def test_a_request_that_fails_is_a_message_and_the_stream_goes_on() -> None:
    wrong = raw_request(inputs=[("IN", "FP32", (4,))], id="w", parameters=EMPTY_FINAL)
    failing = ident(Answering(lambda _: internal("told you so")), "failing")
    found = exchange(
        [ident(), failing],
        raw_request("nosuch", id="u"),
        wrong,
        raw_request("failing", id="f"),
        b"\xff\xff",
        raw_request(id="after"),
    )
    assert told(found[0]) == ("Request for unknown model: 'nosuch' is not found", "u", "", None)
    assert found[0].infer_response.model_name == ""
    assert found[1].error_message.startswith("[request id: w] unexpected shape for input 'IN'")
    assert told(found[1])[1:] == ("w", "", None)
    assert told(found[2]) == ("told you so", "f", "", True)
    assert found[2].infer_response.model_name == "failing"
    assert found[3].error_message.startswith("request: ")
    assert told(found[4]) == ("", "after", "1", True)


def test_an_output_that_cannot_be_written_fails_its_request_alone() -> None:
    strange = ident(Answering(lambda _: InferResponse({"OUT": FOUR.astype(np.complex64)})), "strange")
    found = exchange([strange, ident()], raw_request("strange"), raw_request(id="after"))
    assert "no datatype of the protocol" in found[0].error_message
    assert told(found[1]) == ("", "after", "1", True)


def test_a_caller_may_want_errors_as_the_streams_status() -> None:
    async def scene() -> None:
        failing = ident(Answering(lambda _: internal("told you so")), "failing")
        stream = Stream([ident(), failing], [("triton_grpc_error", "true")])
        stream.context.send(raw_request(id="a"), raw_request("failing"), raw_request(id="after"))
        with pytest.raises(CallError) as ended:
            await stream.task
        assert (ended.value.code, ended.value.message) == (grpc.StatusCode.INTERNAL, "told you so")
        assert [told(each) for each in stream.context.rest] == [("", "a", "1", True)]

    talk(scene)


def test_a_stream_without_requests_just_ends() -> None:
    assert exchange([ident()]) == []


# Order and concurrency ------------------------------------------------------------------------------------------------


def test_requests_are_read_without_waiting_for_those_before_them() -> None:
    async def scene() -> None:
        held = Held()
        stream = Stream([ident(held)])
        stream.context.send(*[raw_request(id=str(number)) for number in range(3)])
        while len(held.requests) < 3:
            await asyncio.sleep(0)
        for request in reversed(held.requests):
            request.respond(InferResponse({"OUT": FOUR}))
        found = await stream.finish()
        assert [each.infer_response.id for each in found] == ["0", "1", "2"]

    talk(scene)


def test_decoupled_responses_do_not_wait_for_other_requests() -> None:
    async def scene() -> None:
        held = Held()
        stream = Stream([ident(held), served(DEC, Decoupled())])
        stream.context.send(raw_request(id="slow"), count(1, id="quick"))
        assert (await stream.context.next()).infer_response.id == "quick"
        held.requests[0].respond(InferResponse({"OUT": FOUR}))
        assert (await stream.context.next()).infer_response.id == "slow"
        assert await stream.finish() == []

    talk(scene)


def test_only_so_many_requests_are_in_flight() -> None:
    async def scene() -> None:
        held = Held()
        stream = Stream([ident(held)])
        stream.context.send(*[raw_request() for _ in range(MAX_IN_FLIGHT + 5)])
        while len(held.requests) < MAX_IN_FLIGHT:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(held.requests) == MAX_IN_FLIGHT
        assert stream.context.reads == MAX_IN_FLIGHT + 1
        held.requests[0].respond(InferResponse({"OUT": FOUR}))
        while len(held.requests) < MAX_IN_FLIGHT + 1:
            await asyncio.sleep(0)
        answered = 1
        stream.context.finish()
        while not stream.task.done():
            for request in held.requests[answered:]:
                request.respond(InferResponse({"OUT": FOUR}))
                answered += 1
            await asyncio.sleep(0)
        assert len(stream.context.rest) == MAX_IN_FLIGHT + 5

    talk(scene)


def test_responses_made_on_other_threads_all_arrive() -> None:
    async def scene() -> None:
        held = Held()
        stream = Stream([served(DEC, held)])
        stream.context.send(count(0, id="d"))
        while not held.requests:
            await asyncio.sleep(0)
        (request,) = held.requests

        def answer() -> None:
            for number in range(500):
                request.respond(InferResponse({"OUT": np.int32([number])}), final=False)
            request.respond(None)

        await asyncio.get_running_loop().run_in_executor(None, answer)
        found = await stream.finish()
        numbers = [int(np.frombuffer(each.infer_response.raw_output_contents[0], np.int32)[0]) for each in found]
        assert numbers == list(range(500))

    talk(scene)


# The end --------------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_cancels_all_its_requests() -> None:
    async def scene() -> None:
        held, many = Held(), Held()
        stream = Stream([ident(held), served(DEC, many)])
        stream.context.send(raw_request(), count(9), raw_request())
        while len(held.requests) + len(many.requests) < 3:
            await asyncio.sleep(0)
        many.requests[0].respond(InferResponse({"OUT": np.int32([0])}), final=False)
        stream.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream.task
        assert all(request.is_cancelled for request in [*held.requests, *many.requests])
        for request in [*held.requests, *many.requests]:
            request.respond(InferResponse({"OUT": FOUR}))  # too late, and nobody minds

    talk(scene)


def test_a_draining_server_answers_what_it_read_and_then_says_so() -> None:
    async def scene() -> None:
        held = Held()
        stream = Stream([ident(held)])
        stream.context.send(raw_request(id="read"))
        while not held.requests:
            await asyncio.sleep(0)
        stream.admission.drain()
        for _ in range(5):
            await asyncio.sleep(0)
        stream.context.send(raw_request(id="late"))
        held.requests[0].respond(InferResponse({"OUT": FOUR}))
        with pytest.raises(CallError) as ended:
            await stream.task
        assert ended.value.code is grpc.StatusCode.UNAVAILABLE
        assert [each.infer_response.id for each in stream.context.rest] == ["read"]

    talk(scene)


def test_a_message_that_is_too_large_ends_the_stream_after_what_came_before() -> None:
    async def scene() -> None:
        stream = Stream([ident()], max_bytes=200)
        stream.context.send(raw_request(id="fits"), raw_request(raw=[bytes(1000)]), raw_request(id="after"))
        with pytest.raises(CallError) as ended:
            await stream.task
        assert ended.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert [each.infer_response.id for each in stream.context.rest] == ["fits"]

    talk(scene)


def test_a_failed_request_is_still_counted_by_its_model() -> None:
    model = ident(Answering(lambda _: internal("no")))
    exchange([model], raw_request())
    assert model.statistics.snapshot().fail.count == 1
