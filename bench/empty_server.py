"""Empty handlers: a server that answers every Predict with the same bytes, on the native batch API or on grpc.aio.

They are the limits that Predict is held against: what the transport alone can do with the same messages.
"""

import asyncio
import sys

import grpc
import uvloop
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from bench.orders import say

METHOD = "/nextact.v1.BehaviorService/Predict"
BURST = 256


def serve_native(response: bytes) -> None:
    """Serves on NativeGrpcFront as nextact sets it up (one I/O thread, metadata with each call), until it is ended."""
    front = NativeGrpcFront("127.0.0.1:0", [(METHOD, False)], io_threads=1, call_details=True)
    front.start()
    say({"port": front.bound_port})
    while (events := front.recv_batch_details(BURST)) is not None:
        for event in events:
            if event[0] == EVENT_CALL:
                front.respond(event[1], response)


async def serve_aio(response: bytes) -> None:
    """Serves on grpc.aio, until the process is ended."""

    async def predict(request: bytes, context: object) -> bytes:  # noqa: ARG001
        return response

    server = grpc.aio.server()
    service, _, method = METHOD[1:].partition("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(predict)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say({"port": port})
    await server.wait_for_termination()


if __name__ == "__main__":
    kind, answer = sys.argv[1], bytes.fromhex(sys.argv[2])
    if kind == "native":
        serve_native(answer)
    else:
        uvloop.install()
        asyncio.run(serve_aio(answer))
