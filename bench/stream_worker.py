"""A worker that streams Arrow messages through gRPC, within a window, and counts what was acknowledged."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from bench.messages import arrow_message, movie_titles
from bench.orders import answer_orders
from bench.processes import cpu_seconds
from nextact.v1 import behavior_pb2 as pb

METHOD = "/nextact.v1.BehaviorService/StreamEvents"
WINDOW = 16
"""Messages that may be unacknowledged: what the server offers."""
LARGEST = 64 * 1024 * 1024


def main() -> None:
    """Takes orders `{target, lanes: [[user number per event]...], first, items}`: one message per list.

    `first` is the number of the first event; event n is about item n modulo `items`.
    """
    item_ids = list(movie_titles(9000))
    channels: dict[str, grpc.Channel] = {}

    def handle(order: dict[str, Any]) -> dict[str, Any]:
        items = item_ids[: order["items"]]
        first, messages, count = order["first"], [], 0
        for number, lanes in enumerate(order["lanes"], 1):
            about = [items[(first + count + at) % len(items)] for at in range(len(lanes))]
            messages.append(arrow_message(number, [f"user-{lane}" for lane in lanes], about, first + count))
            count += len(lanes)
        target = order["target"]
        if target not in channels:
            options = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
            channels[target] = grpc.insecure_channel(target, options=options)
        cpu = cpu_seconds(os.getpid())
        seconds, answers = _stream(channels[target], messages)
        cpu = cpu_seconds(os.getpid()) - cpu
        accepted = sum(pb.StreamEventsResponse.FromString(answer).accepted for answer in answers)
        if accepted != count:
            raise RuntimeError(f"{accepted} of {count} events were accepted")
        return {"seconds": seconds, "client_cpu": cpu, "bytes": sum(map(len, messages))}

    answer_orders(handle)


def _stream(channel: grpc.Channel, messages: Sequence[bytes]) -> tuple[float, list[bytes]]:
    room = threading.Semaphore(WINDOW)

    def within_window() -> Iterator[bytes]:
        for message in messages:
            room.acquire()
            yield message

    call = channel.stream_stream(METHOD, None, None)
    started = time.perf_counter()
    answers = []
    for answer in call(within_window(), timeout=300):
        answers.append(answer)
        room.release()
    return time.perf_counter() - started, answers


if __name__ == "__main__":
    main()
