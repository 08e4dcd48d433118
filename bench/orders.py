"""The worker's side of `processes.Worker`: orders come as JSON lines on stdin, answers go to stdout."""

import json
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["answer_orders", "say"]


def say(answer: dict[str, Any]) -> None:
    """Writes one answer."""
    print(json.dumps(answer), flush=True)


def answer_orders(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers orders until there are no more; what an order raises is its answer."""
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)
