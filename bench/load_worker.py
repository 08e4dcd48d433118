"""A worker that sends Predict calls, each a different event, and checks every answer after the clock has stopped."""

import os
from collections import Counter
from typing import Any

from bench.http2 import run_load
from bench.messages import movie_titles, predict_message
from bench.orders import answer_orders
from bench.processes import cpu_seconds
from nextact.v1 import behavior_pb2 as pb

PATH = "/nextact.v1.BehaviorService/Predict"


def main() -> None:
    """Takes orders `{target, calls, warm_up, concurrency, first, users, outputs, same, check}`.

    Event number n is of user n modulo `users` (or `user_ids`, in order); with `same` all calls are the same event.
    """
    items = list(movie_titles(1000))

    def handle(order: dict[str, Any]) -> dict[str, Any]:
        first, same = order["first"], order.get("same", False)
        users = order.get("user_ids")
        messages = []
        for call in range(order["warm_up"] + order["calls"]):
            number = first if same else first + call
            user = users[call] if users else f"user-{number % order['users']}"
            messages.append(predict_message(number, user, items[number % len(items)], order["outputs"]))
        host, _, port = order["target"].rpartition(":")
        cpu = cpu_seconds(os.getpid())
        load = run_load(host, int(port), PATH, messages, order["concurrency"], order["warm_up"])
        cpu = cpu_seconds(os.getpid()) - cpu
        return {
            "seconds": load.seconds,
            "latencies": load.latencies,
            "client_cpu": cpu,
            "outcomes": _outcomes(load.answers) if order["check"] else {},
            "failed": sum(answer is None for answer in load.answers),
            "answer_bytes": sum(len(answer or b"") for answer in load.answers) / max(1, len(load.answers)),
        }

    answer_orders(handle)


def _outcomes(answers: list[bytes | None]) -> dict[str, int]:
    """How often each event status was answered."""
    counts: Counter[str] = Counter()
    for answer in answers:
        if answer is not None:
            for result in pb.PredictResponse.FromString(answer).results:
                counts[pb.EventStatus.Name(result.status).removeprefix("EVENT_STATUS_")] += 1
    return dict(counts)


if __name__ == "__main__":
    main()
