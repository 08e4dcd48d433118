"""The native side: unary calls in bursts, HTTP/2 and gRPC in Rust outside the GIL (pygrpc-native's batch API).

A burst is what arrived while the last one was handled. Methods that can take many calls at once get them so; the others
run on the event loop, call by call. Streams, health and reflection fall through to a grpc.aio server on a Unix socket
behind it.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

from nextact_server.rpc.admission import Admission
from nextact_server.rpc.burst import Burst, MakeBurst
from nextact_server.rpc.errors import CallError, as_call_error, unavailable
from nextact_server.rpc.service import UnaryMethod

BURST = 256
FLUSH_S = 0.05
"""Seconds for the last answers to be written: closing the front drops those that are not, and it does not say when."""


class Method(NamedTuple):
    """A served method: its name in its service, and who takes its calls."""

    name: str
    unary: UnaryMethod
    burst: Burst | None = None


class NativeServer:
    """Serves unary methods on one plaintext port.

    `services` holds the methods by the full name of their service; `bursts`, by full path ('/package.Service/Method'),
    who takes calls of some of them in bursts instead.
    """

    def __init__(
        self,
        target: str,
        services: Mapping[str, Mapping[str, UnaryMethod]],
        bursts: Mapping[str, MakeBurst],
        admission: Admission,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._admission = admission
        self._loop = loop
        made = {path: make(self) for path, make in bursts.items()}
        methods = {
            f"/{service}/{name}": Method(name, unary, made.get(f"/{service}/{name}"))
            for service, methods in services.items()
            for name, unary in methods.items()
        }
        self._by_id = list(methods.values())
        self._bursts = list(made.values())
        self._front = NativeGrpcFront(target, [(path, False) for path in methods], io_threads=1, call_details=True)
        self._thread = threading.Thread(target=self._dispatch, name="native-dispatch", daemon=True)
        self._tasks: dict[int, asyncio.Task[None]] = {}

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
        for burst in self._bursts:
            burst.abandon(stopping)
        while tasks := dict(self._tasks):
            for call_id, task in tasks.items():
                self.fail(call_id, stopping)
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        if self._thread.ident is not None:
            await asyncio.sleep(FLUSH_S)
        await self._loop.run_in_executor(None, self._front.close)
        if self._thread.ident is not None:
            await self._loop.run_in_executor(None, self._thread.join)

    def _unanswered(self) -> "list[asyncio.Future[Any]]":
        return [answer for burst in self._bursts for answer in burst.unanswered()] + list(self._tasks.values())

    # Answers, from any thread ---------------------------------------------------------------------------------------

    def respond(self, call_id: int, response: bytes) -> None:
        """Answer a call."""
        self._front.respond(call_id, response)

    def fail(self, call_id: int, error: CallError) -> None:
        """End a call with a status."""
        self._front.fail(call_id, error.code.value[0], error.message, trailing_metadata=list(error.trailing_metadata()))

    # The dispatching thread -----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        front = self._front
        while (events := front.recv_batch_details(BURST)) is not None:
            calls: dict[Burst, dict[int, Any]] = {burst: {} for burst in self._bursts}
            while events:
                self._read(events, calls)
                if any(len(taken) >= BURST for taken in calls.values()):
                    break  # and receive nothing more: what is received must be read
                # What came while these were read goes with them.
                events = front.recv_batch_details(BURST, timeout_ms=0) or []
            for burst, taken in calls.items():
                if taken:
                    self._start(burst, taken)
            for burst, taken in calls.items():
                if taken:
                    burst.wait()

    def _read(self, events: Sequence[tuple[Any, ...]], calls: Mapping[Burst, dict[int, Any]]) -> None:
        """Adds the calls among what was received that go in bursts; everything else goes its own way at once."""
        for kind, call_id, method_id, payload, _, details in events:
            if kind == EVENT_CANCEL:
                self._cancel(call_id, calls)
                continue
            name, unary, burst = self._by_id[method_id]
            try:
                metadata, peer, _ = details
                self._admission.admit(name, metadata, peer, len(payload))
                if burst is not None:
                    calls[burst][call_id] = burst.read(payload)
                else:
                    self._loop.call_soon_threadsafe(self._start_task, call_id, unary, payload)
            except Exception as error:
                self.fail(call_id, as_call_error(error))

    def _start(self, burst: Burst, calls: Mapping[int, Any]) -> None:
        """Starts calls; what that raises is their answer, and never the end of this thread."""
        try:
            burst.start(calls)
        except Exception as error:
            failure = as_call_error(error)
            for call_id in calls:
                self.fail(call_id, failure)

    def _cancel(self, call_id: int, calls: Mapping[Burst, dict[int, Any]]) -> None:
        # Its caller may have gone, or its deadline passed, before it was even started.
        if any(taken.pop(call_id, None) is not None for taken in calls.values()):
            return
        if not any(burst.cancel(call_id) for burst in self._bursts):
            self._loop.call_soon_threadsafe(self._cancel_task, call_id)

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
            self.fail(call_id, as_call_error(error))
