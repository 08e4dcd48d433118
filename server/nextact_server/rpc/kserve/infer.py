"""ModelInfer and ModelStreamInfer: from bytes to requests of served models, and their responses back to bytes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nextact_server.inference.infer_errors import InferError, unavailable
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.repository.served import Retired, ServedModel
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.kserve.decode import ModelSource, RequestReader
from nextact_server.rpc.kserve.encode import infer_response
from nextact_server.rpc.kserve.request import RpcRequest
from nextact_server.rpc.kserve.shared_memory import SharedMemory
from nextact_server.rpc.kserve.stream import InferStream
from nextact_server.rpc.kserve.trace import Tracer
from nextact_server.rpc.kserve.wire import cut

__all__ = ["MODEL_INFER", "MODEL_STREAM_INFER", "SERVICE", "InferService"]

SERVICE = "inference.GRPCInferenceService"
"""The service of this package, whose other methods are in `control`."""
MODEL_INFER = "ModelInfer"
MODEL_STREAM_INFER = "ModelStreamInfer"


class InferService:
    """The two methods; `infer_burst.InferBurst` is the door of the native front for the first of them."""

    def __init__(
        self, models: ModelSource, regions: SharedMemory, admission: Admission, tracer: Tracer | None = None
    ) -> None:
        self.reader = RequestReader(models, regions, tracer)
        self._admission = admission

    @property
    def methods(self) -> dict[str, Callable[[bytes], Awaitable[bytes]]]:
        """The unary method by name."""
        return {MODEL_INFER: self.model_infer}

    @property
    def streams(self) -> dict[str, Callable[[Any], Awaitable[None]]]:
        """The stream by name."""
        return {MODEL_STREAM_INFER: self.stream}

    async def model_infer(self, payload: bytes) -> bytes:
        """One call. Raises CallError and InferError; cancelled, it cancels its request."""
        answer = _Answer(asyncio.get_running_loop())
        request = self.reader.read(cut(payload), answer, unary=True)
        self.submit([request])
        try:
            return await answer.future
        except asyncio.CancelledError:
            request.cancel()
            raise

    async def stream(self, context: Any) -> None:
        """One stream to its end, on a context of grpc.aio. Raises CallError where it ends with a status."""
        await InferStream(context, self.reader, self.submit, self._admission).serve()

    def submit(self, requests: Sequence[RpcRequest]) -> None:
        """Hand requests that were read together to their models, those of one model at once. Any thread."""
        served = requests[0].served
        if all(request.served is served for request in requests):
            self._submit(served, requests)
            return
        by_model: dict[ServedModel, list[RpcRequest]] = {}
        for request in requests:
            by_model.setdefault(request.served, []).append(request)
        for served, together in by_model.items():
            self._submit(served, together)

    def _submit(self, served: ServedModel, requests: Sequence[RpcRequest]) -> None:
        try:
            served.infer(requests)
        except Retired:
            for request in requests:
                self._submit_again(request)

    def _submit_again(self, request: RpcRequest) -> None:
        """Look up once more, as long as that finds another version: one took over between the look-up and now."""
        unary = not request.plan.spec.decoupled
        while True:
            retired = request.served
            try:
                request.adopt(self.reader.read(cut(request.payload), request.sink, unary=unary))
                if request.served is retired:
                    spec = retired.spec
                    raise unavailable(
                        f"Request for unknown model: '{spec.name}' version {spec.version} is not at ready state"
                    )
                request.served.infer([request])
            except Retired:
                continue
            except InferError as error:
                request.respond(error)
            return


class _Answer:
    """The sink of one call on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.future: asyncio.Future[bytes] = loop.create_future()

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        """See `ResponseSink`."""
        assert isinstance(request, RpcRequest)
        outcome = request.only_response(response, final=final)
        if outcome is None or request.is_cancelled:
            return
        result: bytes | Exception
        request.sending(outcome)
        try:
            result = infer_response(request, outcome) if isinstance(outcome, InferResponse) else outcome
        except Exception as error:
            result = error
        self._loop.call_soon_threadsafe(self._settle, result)
        request.sent(final=True)

    def _settle(self, result: bytes | Exception) -> None:
        if self.future.done():
            return
        if isinstance(result, bytes):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)
