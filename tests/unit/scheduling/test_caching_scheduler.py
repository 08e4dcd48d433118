"""The cache in front of a scheduler: a hit is what the miss was."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from nextact_server.inference.infer_errors import InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec, TensorSpec
from nextact_server.inference.response_cache import ResponseCache
from nextact_server.inference.scheduling.caching import CachingScheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import DataType

SPEC = ModelSpec("m", 1, "", (TensorSpec("x", DataType.FP32, (-1,)),), (TensorSpec("y", DataType.FP32, (-1,)),), 8)


class Collected:
    """Keeps what a request is answered."""

    def __init__(self) -> None:
        self.responses: list[tuple[InferResponse | InferError | None, bool]] = []

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        self.responses.append((response, final))

    @property
    def output(self) -> object:
        ((response, final),) = self.responses
        assert final
        assert isinstance(response, InferResponse)
        return response.outputs["y"].tolist(), response.parameters


class Inner:
    """Answers at once, and counts."""

    def __init__(self, answer: Callable[[InferRequest], None]) -> None:
        self.asked = 0
        self.closed: list[bool] = []
        self._answer = answer

    def submit(self, requests: Sequence[InferRequest]) -> None:
        for request in requests:
            self.asked += 1
            self._answer(request)

    def close(self, *, drain: bool = True) -> None:
        self.closed.append(drain)


def double(request: InferRequest) -> None:
    request.respond(InferResponse({"y": request.inputs["x"] * 2}, {"from": "model"}))


def ask(scheduler: CachingScheduler, statistics: ModelStatistics, *values: float) -> list[Collected]:
    sinks = [Collected() for _ in values]
    requests = [
        InferRequest({"x": np.array([[value]], np.float32)}, sink) for value, sink in zip(values, sinks, strict=True)
    ]
    statistics.entered(len(requests))
    scheduler.submit(requests)
    return sinks


def cached(answer: Callable[[InferRequest], None]) -> tuple[CachingScheduler, Inner, ModelStatistics]:
    inner, statistics = Inner(answer), ModelStatistics()
    return CachingScheduler(inner, ResponseCache(1 << 20), SPEC, statistics), inner, statistics


def test_a_hit_equals_the_miss_and_does_not_ask_the_model() -> None:
    scheduler, inner, statistics = cached(double)
    (miss,) = ask(scheduler, statistics, 3)
    (hit,) = ask(scheduler, statistics, 3)
    assert miss.output == hit.output == ([[6]], {"from": "model"})
    assert inner.asked == 1
    counts = statistics.snapshot()
    assert (counts.cache_hit.count, counts.cache_miss.count) == (1, 1)
    assert counts.cache_hit.ns > 0
    assert counts.cache_miss.ns > 0
    assert counts.queue.count == 1
    # The inner scheduler counts what it took; the hit left the wait here.
    assert counts.pending == 1


def test_only_what_is_not_known_reaches_the_model() -> None:
    scheduler, inner, statistics = cached(double)
    ask(scheduler, statistics, 1)
    found = ask(scheduler, statistics, 1, 2, 1, 4)
    assert [one.output for one in found] == [([[2 * value]], {"from": "model"}) for value in (1, 2, 1, 4)]
    assert inner.asked == 3


def fails(request: InferRequest) -> None:
    request.respond(internal("no"))


def cancelled(request: InferRequest) -> None:
    request.cancel()
    double(request)


def several(request: InferRequest) -> None:
    request.respond(InferResponse({"y": request.inputs["x"]}), final=False)
    double(request)


def none(request: InferRequest) -> None:
    request.respond(None)


@pytest.mark.parametrize("answer", [fails, cancelled, several, none])
def test_only_a_single_success_of_a_living_request_is_kept(answer: Callable[[InferRequest], None]) -> None:
    scheduler, inner, statistics = cached(answer)
    (first,) = ask(scheduler, statistics, 1)
    (second,) = ask(scheduler, statistics, 1)
    assert inner.asked == 2
    assert len(first.responses) == len(second.responses)
    assert statistics.snapshot().cache_miss.count == 0


def test_closing_closes_the_scheduler_behind_it() -> None:
    scheduler, inner, _ = cached(double)
    scheduler.close(drain=False)
    assert inner.closed == [False]
