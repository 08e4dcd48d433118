"""The grpc.aio side: every service on grpcio, by itself or behind the native front."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from nextact_server.rpc.admission import Admission
from nextact_server.rpc.errors import CallError, as_call_error
from nextact_server.rpc.service import UnaryMethod

Context = Any
"""grpc.aio.ServicerContext; its stubs want type arguments that the class itself refuses."""
StreamMethod = Callable[[Context], Awaitable[None]]
"""A bidirectional stream of bytes: reads, writes and returns, or raises what ends it with a status."""
MAX_UNTAKEN = 16_384
"""Calls that may wait for the event loop to take them; more end CANCELLED, which tells their callers nothing."""
HEADROOM = 1024 * 1024
"""Bytes by which grpcio's own bound lies above the setting: what is only a little too large gets the better answer."""


def make_grpcio_server(
    services: Mapping[str, Mapping[str, UnaryMethod]],
    streams: Mapping[str, Mapping[str, StreamMethod]],
    admission: Admission,
    health: Any,
    *,
    max_message_bytes: int,
    with_reflection: bool,
) -> grpc.aio.Server:
    """A grpc.aio server with all services and no port yet; methods and streams by the full name of their service."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes + HEADROOM),
            ("grpc.max_send_message_length", max_message_bytes + HEADROOM),
            ("grpc.so_reuseport", 0),
            ("grpc.server.max_pending_requests", MAX_UNTAKEN),
            ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_UNTAKEN),
        ]
    )
    names = list(dict.fromkeys([*services, *streams]))
    for service in names:
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_unary(admission, name, method))
            for name, method in services.get(service, {}).items()
        }
        for name, stream in streams.get(service, {}).items():
            handlers[name] = grpc.stream_stream_rpc_method_handler(_stream(admission, name, stream))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if with_reflection:
        reflection.enable_server_reflection((*names, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    return server


def _unary(admission: Admission, name: str, method: UnaryMethod) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(payload: bytes, context: Context) -> bytes:
        try:
            admission.admit(name, context.invocation_metadata() or (), context.peer(), len(payload))
            return await method(payload)
        except Exception as error:
            await _abort(context, as_call_error(error))
            raise AssertionError("abort does not return") from error

    return handle


def _stream(admission: Admission, name: str, stream: StreamMethod) -> Callable[[Any, Context], Awaitable[None]]:
    async def handle(_: Any, context: Context) -> None:
        try:
            admission.admit(name, context.invocation_metadata() or (), context.peer(), 0)
            await stream(context)
        except Exception as error:
            await _abort(context, as_call_error(error))

    return handle


async def _abort(context: Context, error: CallError) -> None:
    await context.abort(error.code, error.message, error.trailing_metadata())
