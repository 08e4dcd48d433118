"""ModelInfer and ModelStreamInfer with unmodified tritonclient, over both transports, on a real port."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio_client
from infer_fakes import MAX_BYTES, PATIENCE_S, Answering, Decoupled, Held, Models, model_spec, raw_request, served
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from nextact_server.inference.infer_request import InferResponse
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.grpcio_server import make_grpcio_server
from nextact_server.rpc.kserve.infer import MODEL_INFER, SERVICE, InferService
from nextact_server.rpc.kserve.infer_burst import InferBurst
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.native_server import NativeServer

IMAGE = np.random.default_rng(0).standard_normal((1, 150_528), np.float32)


class Health:
    """A health servicer that nobody asks."""

    Check = Watch = None


class Server:
    """Both transports over the same models: the native front with grpcio behind it, or grpcio alone."""

    def __init__(self, transport: str, directory: Path) -> None:
        self.held = Held()
        self.models = Models(
            served(model_spec("identity", dims=(-1,), max_batch_size=64), Answering()),
            served(model_spec("held"), self.held),
            served(model_spec("dec", "INT32", (1,), 0, decoupled=True), Decoupled()),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._run(self._start(transport, f"{directory}/grpcio.sock"))

    def stop(self, grace_s: float = 0.5) -> None:
        self._run(self._stop(grace_s))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, task: Any) -> None:
        asyncio.run_coroutine_threadsafe(task, self._loop).result(PATIENCE_S)

    async def _start(self, transport: str, socket: str) -> None:
        admission = Admission(MAX_BYTES)
        service = InferService(self.models, SharedMemory(), admission)
        services = {SERVICE: service.methods}
        self._grpcio = make_grpcio_server(
            services,
            {SERVICE: service.streams},
            admission,
            Health(),
            max_message_bytes=MAX_BYTES,
            with_reflection=True,
        )
        self._native: NativeServer | None = None
        if transport == "native":
            bursts = {f"/{SERVICE}/{MODEL_INFER}": partial(InferBurst, service)}
            self._native = NativeServer("127.0.0.1:0", services, bursts, admission, asyncio.get_running_loop())
            self._grpcio.add_insecure_port(f"unix:{socket}")
            await self._grpcio.start()
            self._native.start(socket)
            self.target = f"127.0.0.1:{self._native.port}"
        else:
            self.target = f"127.0.0.1:{self._grpcio.add_insecure_port('127.0.0.1:0')}"
            await self._grpcio.start()

    async def _stop(self, grace_s: float) -> None:
        await self._grpcio.stop(grace_s)
        if self._native is not None:
            await self._native.stop(grace_s)


@pytest.fixture(params=["native", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made = Server(request.param, tmp_path)
    yield made
    made.stop()


def tensor(array: np.ndarray, datatype: str = "FP32") -> client.InferInput:
    made = client.InferInput("IN", list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def test_a_large_tensor_comes_back_bit_by_bit(server: Server) -> None:
    with client.InferenceServerClient(server.target) as triton:
        result = triton.infer("identity", [tensor(IMAGE)], request_id="r")
        np.testing.assert_array_equal(result.as_numpy("OUT"), IMAGE)
        assert result.get_response().id == "r"


def test_many_callers_each_get_their_own_answer(server: Server) -> None:
    with client.InferenceServerClient(server.target) as triton:
        results: queue.Queue[Any] = queue.Queue()
        for number in range(64):
            array = np.full((1, 1 + number % 5), number, np.float32)
            triton.async_infer(
                "identity", [tensor(array)], lambda result, error: results.put((result, error)), request_id=str(number)
            )
        for _ in range(64):
            result, error = results.get(timeout=PATIENCE_S)
            assert error is None
            number = int(result.get_response().id)
            assert result.as_numpy("OUT").tolist() == [[number] * (1 + number % 5)]


def test_an_asyncio_client_is_answered_too(server: Server) -> None:
    async def ask() -> None:
        async with aio_client.InferenceServerClient(server.target) as triton:
            result = await triton.infer("identity", [tensor(IMAGE)])
            np.testing.assert_array_equal(result.as_numpy("OUT"), IMAGE)

            async def requests() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": "dec", "inputs": [tensor(np.int32([3]), "INT32")], "request_id": "d"}

            found = [result.as_numpy("OUT").tolist() async for result, _ in triton.stream_infer(requests())]
            assert found == [[0], [1], [2]]

    asyncio.run(ask())


def test_errors_have_tritons_code_and_text(server: Server) -> None:
    with client.InferenceServerClient(server.target) as triton:
        with pytest.raises(InferenceServerException) as refused:
            triton.infer("nosuch", [tensor(IMAGE)])
        assert refused.value.status() == "StatusCode.NOT_FOUND"
        assert refused.value.message() == "Request for unknown model: 'nosuch' is not found"
        with pytest.raises(InferenceServerException) as refused:
            triton.infer("identity", [tensor(np.zeros((1, 2, 2), np.float32))], request_id="r")
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        assert refused.value.message().startswith("[request id: r] unexpected shape for input 'IN'")
        assert triton.infer("identity", [tensor(IMAGE)]).as_numpy("OUT").shape == IMAGE.shape


def test_broken_bytes_end_their_call_alone(server: Server) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{MODEL_INFER}")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff\xff", timeout=PATIENCE_S)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        payload = raw_request("identity").SerializeToString()
        assert pb.ModelInferResponse.FromString(call(payload, timeout=PATIENCE_S)).model_name == "identity"


def test_a_client_that_gives_up_cancels_its_request(server: Server) -> None:
    payload = raw_request("held").SerializeToString()
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{MODEL_INFER}")
        asked = call.future(payload)
        (request,) = server.held.wait_for_requests()
        asked.cancel()
        server.held.wait_for_cancel(request)
        with pytest.raises(grpc.RpcError) as expired:
            call(payload, timeout=0.2)
        assert expired.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.held.wait_for_cancel(server.held.wait_for_requests(2)[-1])


def test_streams_carry_many_models_side_by_side(server: Server) -> None:
    with client.InferenceServerClient(server.target) as triton:
        results: queue.Queue[Any] = queue.Queue()
        triton.start_stream(lambda result, error: results.put((result, error)))
        triton.async_stream_infer("held", [tensor(np.ones((1, 4), np.float32))], request_id="slow")
        triton.async_stream_infer(
            "dec", [tensor(np.int32([2]), "INT32")], request_id="d", enable_empty_final_response=True
        )
        triton.async_stream_infer("nosuch", [tensor(IMAGE)], request_id="u")
        found = [results.get(timeout=PATIENCE_S)[0].get_response() for _ in range(3)]
        assert [each.parameters["triton_final_response"].bool_param for each in found] == [False, False, True]
        server.held.wait_for_requests()[0].respond(InferResponse({"OUT": np.ones((1, 4), np.float32)}))
        assert results.get(timeout=PATIENCE_S)[0].get_response().id == "slow"
        result, error = results.get(timeout=PATIENCE_S)
        assert result is None
        assert error.message() == "Request for unknown model: 'nosuch' is not found"
        triton.stop_stream()


def test_a_stream_that_is_cancelled_cancels_its_requests(server: Server) -> None:
    with client.InferenceServerClient(server.target) as triton:
        triton.start_stream(lambda result, error: None)
        triton.async_stream_infer("held", [tensor(np.ones((1, 4), np.float32))])
        (request,) = server.held.wait_for_requests()
        triton.stop_stream(cancel_requests=True)
        server.held.wait_for_cancel(request)


def test_a_server_that_stops_ends_what_is_not_answered_in_time(tmp_path: Path) -> None:
    server = Server("native", tmp_path)
    payload = raw_request("held").SerializeToString()
    with grpc.insecure_channel(server.target) as channel:
        asked = channel.unary_unary(f"/{SERVICE}/{MODEL_INFER}").future(payload)
        (request,) = server.held.wait_for_requests()
        server.stop(grace_s=0.1)
        assert asked.exception(PATIENCE_S).code() is grpc.StatusCode.UNAVAILABLE
        assert request.is_cancelled
