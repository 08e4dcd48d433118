"""A worker that sends the same ModelInfer again and again, and tells when each call was sent and how long it took."""

from typing import Any

from bench.http2 import run_load
from bench.orders import answer_orders

PATH = "/inference.GRPCInferenceService/ModelInfer"


def main() -> None:
    """Takes orders `{target, message (hex), calls, warm_up, concurrency}`."""

    def handle(order: dict[str, Any]) -> dict[str, Any]:
        messages = [bytes.fromhex(order["message"])] * (order["warm_up"] + order["calls"])
        host, _, port = order["target"].rpartition(":")
        load = run_load(host, int(port), PATH, messages, order["concurrency"], order["warm_up"])
        return {
            "seconds": load.seconds,
            "starts": load.starts,
            "latencies": load.latencies,
            "failed": sum(answer is None for answer in load.answers),
        }

    answer_orders(handle)


if __name__ == "__main__":
    main()
