"""The native side: unary calls in bursts, HTTP/2 and gRPC in Rust outside the GIL (pygrpc-native's batch API).

A burst is what arrived while the last one was handled: one pass decodes its Predict calls into one batch and one step
answers them. Streams, health and reflection fall through to a grpc.aio server on a Unix socket behind it.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import grpc
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from nextact.v1 import behavior_pb2 as pb
from nextact_server.events.call import Answer, Call
from nextact_server.pipeline import Pipeline, Submission
from nextact_server.rpc.admission import Admission
from nextact_server.rpc.decode import PredictReader, event_columns, has_content, parse
from nextact_server.rpc.encode import Encoder
from nextact_server.rpc.errors import CallError, as_call_error, unavailable
from nextact_server.rpc.limits import Limits
from nextact_server.rpc.service import SERVICE, BehaviorService, UnaryMethod

PREDICT = "Predict"
BURST = 256
FLUSH_S = 0.05
"""Seconds for the last answers to be written: closing the front drops those that are not, and it does not say when."""


class _Predict(NamedTuple):
    """One decoded Predict call."""

    call_id: int
    request: pb.PredictRequest


class NativeServer:
    """Serves the unary methods on one plaintext port."""

    def __init__(
        self,
        target: str,
        service: BehaviorService,
        pipeline: Pipeline,
        encoder: Encoder,
        admission: Admission,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._pipeline = pipeline
        self._encoder = encoder
        self._admission = admission
        self._reader = PredictReader(limits)
        self._loop = loop
        self._methods: list[tuple[str, UnaryMethod]] = list(service.methods.items())
        paths = [(f"/{SERVICE}/{name}", False) for name, _ in self._methods]
        self._front = NativeGrpcFront(target, paths, io_threads=1, call_details=True)
        self._thread = threading.Thread(target=self._dispatch, name="native-dispatch", daemon=True)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._open: dict[int, tuple[Submission, int]] = {}
        self._last: Future[Any] | None = None

    @property
    def port(self) -> int:
        """The port that was bound."""
        return self._front.bound_port

    def start(self, fallback_socket: str) -> None:
        """Serves; what it does not know goes to the gRPC server on the given Unix socket."""
        self._front.set_fallback(fallback_socket)
        self._front.start()
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Lets calls in flight finish for at most `grace_s` seconds, ends the others with UNAVAILABLE, then closes.

        Also for a server that was not started, or not wholly.
        """
        end = self._loop.time() + grace_s
        while (unanswered := self._unanswered()) and (left := end - self._loop.time()) > 0:
            await asyncio.wait(unanswered, timeout=left)
        # The first answer to a call is the one that counts: what its end makes of it afterwards is lost.
        stopping = unavailable("the server is stopping")
        for call_id, opened in list(self._open.items()):
            self._fail(call_id, stopping)
            self._pipeline.withdraw(*opened)
        while tasks := dict(self._tasks):
            for call_id, task in tasks.items():
                self._fail(call_id, stopping)
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        if self._thread.ident is not None:
            await asyncio.sleep(FLUSH_S)
        await self._loop.run_in_executor(None, self._front.close)
        if self._thread.ident is not None:
            await self._loop.run_in_executor(None, self._thread.join)

    def _unanswered(self) -> list[asyncio.Future[Any]]:
        answers = [asyncio.wrap_future(submission.future) for submission, _ in list(self._open.values())]
        for answer in answers:  # what went wrong is told to its caller, and must not be complained of here too
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return [*answers, *self._tasks.values()]

    # The dispatching thread ---------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        front = self._front
        while (events := front.recv_batch_details(BURST)) is not None:
            predicts: dict[int, pb.PredictRequest] = {}
            while events and len(predicts) < BURST:
                self._read(events, predicts)
                # What came while these were read goes with them.
                events = front.recv_batch_details(BURST, timeout_ms=0) or []
            if predicts:
                self._guarded(self._predict, list(predicts), [_Predict(*predict) for predict in predicts.items()])

    def _read(self, events: Sequence[tuple[Any, ...]], predicts: dict[int, pb.PredictRequest]) -> None:
        """Adds the Predict calls among what was received; everything else goes its own way at once."""
        for kind, call_id, method_id, payload, _, details in events:
            if kind == EVENT_CANCEL:
                # Its caller may have gone, or its deadline passed, before it was even read.
                if predicts.pop(call_id, None) is None:
                    self._cancel(call_id)
                continue
            name, method = self._methods[method_id]
            try:
                metadata, peer, _ = details
                self._admission.admit(name, metadata, peer, len(payload))
                if name == PREDICT:
                    predicts[call_id] = parse(pb.PredictRequest, payload)
                else:
                    self._loop.call_soon_threadsafe(self._start_task, call_id, method, payload)
            except Exception as error:
                self._fail(call_id, as_call_error(error))

    def _guarded(self, run: Callable[..., None], call_ids: Sequence[int], *arguments: Any) -> None:
        """Runs something for calls; what it raises is their answer, and never the end of this thread."""
        try:
            run(*arguments)
        except Exception as error:
            failure = as_call_error(error)
            for call_id in call_ids:
                self._fail(call_id, failure)

    def _predict(self, predicts: Sequence[_Predict]) -> None:
        together: list[_Predict] = []
        for predict in predicts:
            request = predict.request
            if request.history or request.options.dry_run or has_content(request.events):
                self._submit(together)  # what came before it takes its turn before it
                together = []
                self._submit([predict])
            else:
                together.append(predict)
        if together:
            self._submit(together)
            self._wait_for_step()

    def _submit(self, predicts: Sequence[_Predict]) -> None:
        taken: list[_Predict] = []
        calls: list[Call] = []
        events: list[pb.Event] = []
        for predict in predicts:
            try:
                calls.append(self._reader.call(predict.request, len(events)))
            except CallError as error:
                self._fail(predict.call_id, error)
                continue
            taken.append(predict)
            events.extend(predict.request.history)
            events.extend(predict.request.events)
        if not taken:
            return
        try:
            submission = self._pipeline.submit(event_columns(events), calls)
        except Exception as error:
            self._refused(taken, error)
            return
        for number, predict in enumerate(taken):
            self._open[predict.call_id] = submission, number
        call_ids = [predict.call_id for predict in taken]
        submission.future.add_done_callback(lambda _: self._done(submission, call_ids))
        self._last = submission.queued

    def _wait_for_step(self) -> None:
        """Reads no further until the burst went through its step, and was answered if that is possible at once.

        What arrives meanwhile gathers in the front and makes one burst: reading it call by call would only compete with
        the step for the interpreter, and make small batches. A burst that waits for its turn is not waited for.
        """
        queued, self._last = self._last, None
        if queued is not None:
            stepped = threading.Lock()
            stepped.acquire()
            # Callbacks run in the order they were added, and the one that answers was there first.
            queued.add_done_callback(lambda _: stepped.release())
            stepped.acquire()

    def _refused(self, predicts: Sequence[_Predict], error: Exception) -> None:
        if len(predicts) == 1:
            self._fail(predicts[0].call_id, as_call_error(error))
            return
        for predict in predicts:  # what one caller asked for, or is too much at once, must not be the others' fate
            self._submit([predict])

    def _cancel(self, call_id: int) -> None:
        opened = self._open.pop(call_id, None)
        if opened is not None:
            self._pipeline.withdraw(*opened)
        else:
            self._loop.call_soon_threadsafe(self._cancel_task, call_id)

    # Answers, on the thread that made them --------------------------------------------------------------------------

    def _done(self, submission: Submission, call_ids: Sequence[int]) -> None:
        self._guarded(self._answer, call_ids, submission, call_ids)
        for call_id in call_ids:  # not before: who stops the server waits for the answers to those that are open
            self._open.pop(call_id, None)

    def _answer(self, submission: Submission, call_ids: Sequence[int]) -> None:
        if submission.future.cancelled():
            return
        error = submission.future.exception()
        if error is not None:
            raise error
        answer: Answer = submission.future.result()
        responses = self._encoder.predict_responses(answer, submission.queue_us, submission.store_us)
        for call_id, response in zip(call_ids, responses, strict=True):
            self._front.respond(call_id, response)

    def _fail(self, call_id: int, error: CallError) -> None:
        self._front.fail(call_id, error.code.value[0], error.message, trailing_metadata=list(error.trailing_metadata()))

    # The event loop's thread ----------------------------------------------------------------------------------------

    def _start_task(self, call_id: int, method: UnaryMethod, payload: bytes) -> None:
        task = self._tasks[call_id] = self._loop.create_task(self._run(call_id, method, payload))
        # Not the task's own work: cancelled before its first step, it does none.
        task.add_done_callback(lambda _: self._tasks.pop(call_id, None))

    def _cancel_task(self, call_id: int) -> None:
        task = self._tasks.get(call_id)
        if task is not None:
            task.cancel()

    async def _run(self, call_id: int, method: UnaryMethod, payload: bytes) -> None:
        try:
            response = await method(payload)
            self._front.respond(call_id, response)
        except asyncio.CancelledError:
            self._front.fail(call_id, grpc.StatusCode.CANCELLED.value[0], "cancelled")
            raise
        except Exception as error:
            self._fail(call_id, as_call_error(error))
