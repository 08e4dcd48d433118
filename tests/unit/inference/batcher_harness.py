"""A model that computes only when a test lets it, an observer that remembers, and a batcher around them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nextact_server.inference.batcher import Batcher, BatchReport, ManualClock

TIMEOUT = 10.0  # real seconds after which a test that hangs is told so


class Model:
    """Answers each item with `answer(item)`; keeps every batch it was given."""

    def __init__(self, answer: Callable[[Any], Any] = lambda item: ("answer", item)) -> None:
        self.batches: list[list[Any]] = []
        self.threads: set[threading.Thread] = set()
        self._answer = answer
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.threads.add(threading.current_thread())
        self.batches.append(list(items))
        self._entered.release()
        assert self._open.wait(6 * TIMEOUT)  # longer than any test waits for what should happen meanwhile
        return [self._answer(item) for item in items]

    def hold(self) -> None:
        """Keep the next batch in the model until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Let the model compute."""
        self._open.set()

    def wait_entered(self) -> None:
        """Block until one more batch than before came in."""
        assert self._entered.acquire(timeout=TIMEOUT)

    @property
    def items(self) -> list[Any]:
        """Everything it was given, in order."""
        return [item for batch in self.batches for item in batch]


class Recorder:
    """Remembers what the batcher told."""

    def __init__(self) -> None:
        self.reports: list[BatchReport] = []
        self.rejected_costs: list[int] = []
        self.expired_items = 0
        self.cancelled_items = 0

    def batch_done(self, report: BatchReport) -> None:
        self.reports.append(report)

    def rejected(self, name: str, cost: int) -> None:
        self.rejected_costs.append(cost)

    def expired(self, name: str, items: int) -> None:
        self.expired_items += items

    def cancelled(self, name: str, items: int) -> None:
        self.cancelled_items += items


class Bench:
    """A batcher with its model, clock and observer."""

    def __init__(self, model: Any, **settings: Any) -> None:
        self.model = model
        self.clock = ManualClock(now=1000.7)
        self.seen = Recorder()
        settings = {"max_cost": 8, "max_queue_cost": 100, "clock": self.clock, "observer": self.seen} | settings
        self.batcher: Batcher[Any, Any] = Batcher("toy", model, **settings)

    def occupy(self, item: Any = "first") -> Any:
        """Submit an item and hold it in the model, so that whatever comes next waits; returns its future."""
        self.model.hold()
        future = self.batcher.submit(item)
        self.model.wait_entered()
        return future


@contextmanager
def bench(model: Any = None, **settings: Any) -> Iterator[Bench]:
    """Give a bench and close it, whatever state the test left the model in."""
    model = model or Model()
    built = Bench(model, **settings)
    try:
        yield built
    finally:
        if isinstance(model, Model):
            model.release()
        built.batcher.close(drain=False)


def answers(futures: Sequence[Any]) -> list[Any]:
    """The answers of all, in order."""
    return [future.result(TIMEOUT) for future in futures]
