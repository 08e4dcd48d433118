"""Whatever comes in whatever order: one answer for each, the right one, and nothing runs whose caller was told no."""

import threading

import numpy as np
from dynamic_harness import TIMEOUT, Sink, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.inference.clock import ManualClock
from nextact_server.inference.execution import Execution
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import DynamicBatching, QueuePolicy, TimeoutAction
from nextact_server.inference.scheduling.dynamic import make_batching_scheduler
from nextact_server.inference.statistics import ModelStatistics

MOST = 4


class Stepped:
    """Computes one batch per permit."""

    retry_safe = True

    def __init__(self, permits, calls):
        self.permits = permits
        self.calls = calls

    def execute(self, requests, times):
        self.calls.append(list(requests))
        assert self.permits.acquire(timeout=TIMEOUT)
        if any(request.id.endswith("raises") for request in requests):
            raise ValueError("bad")
        return [InferResponse({"OUT": request.inputs["IN"] * 2}) for request in requests]

    def close(self):
        pass


policies = st.builds(
    QueuePolicy,
    st.sampled_from(TimeoutAction),
    st.sampled_from([0, 1_000_000, 2_000_000]),
    st.booleans(),
    st.sampled_from([0, 2]),
)
schedules = st.none() | st.builds(
    DynamicBatching,
    st.sampled_from([(), (2,), (2, 3)]),
    st.sampled_from([0, 1_000_000]),
    st.booleans(),
    st.sampled_from([0, 2]),
    st.just(1),
    policies,
    st.dictionaries(st.integers(1, 2), policies),
)
steps = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 9), st.integers(0, 3)),
    st.tuples(st.just("raises"), st.integers(1, 4), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("compute"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("advance"), st.integers(1, 2), st.just(0)),
)


@given(st.lists(steps, max_size=30), schedules, st.integers(1, 3), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_everyone_is_answered_once_and_as_if_alone(script, schedule, instances, varies, drain):
    permits, calls = threading.Semaphore(0), []
    clock, sink, statistics = ManualClock(), Sink(), ModelStatistics()
    spec = spec_of(schedule, most=MOST, dims=(-1 if varies else 2,))
    executions = [Execution(Stepped(permits, calls), statistics) for _ in range(instances)]
    scheduler = make_batching_scheduler(spec, executions, statistics, clock=clock)
    requests = []
    for at, (step, number, extra) in enumerate(script):
        if step in ("submit", "raises"):
            width = 2 + extra % 2 if varies else 2
            data = np.full((number, width), at, np.float32) + np.arange(number, dtype=np.float32)[:, None]
            request = InferRequest(
                {"IN": data}, sink, id=f"{at} {step}", batch_size=number, priority=extra, timeout_us=extra * 500_000
            )
            requests.append(request)
            statistics.entered(1)
            scheduler.submit([request])
        elif step == "cancel" and requests:
            requests[number % len(requests)].cancel()
        elif step == "compute":
            permits.release(number)
        elif step == "advance":
            clock.advance(number)
    permits.release(10_000)
    scheduler.close(drain=drain)

    refused = set()
    for request in requests:
        answer = sink.answer(request.id)
        if isinstance(answer, InferResponse):
            assert not request.id.endswith("raises")
            np.testing.assert_array_equal(answer.outputs["OUT"], request.inputs["IN"] * 2)
        elif answer.code is ErrorCode.INTERNAL:
            assert request.id.endswith("raises")
            assert answer.message == "ValueError: bad"
        else:
            assert isinstance(answer, InferError)
            assert answer.code in (ErrorCode.UNAVAILABLE, ErrorCode.CANCELLED)
            refused.add(request.id)
    assert statistics.snapshot().pending == 0
    for call in calls:
        assert sum(request.batch_size for request in call) <= MOST
        assert len({request.inputs["IN"].shape[1] for request in call}) == 1
        assert len(call) == 1 or schedule is not None
    ran_whole = {request.id for call in calls for request in call if request in requests}
    assert not refused & ran_whole, "a request that was refused was computed"
    if instances == 1 and (schedule is None or (not schedule.priority_levels and not any_delay(schedule))):
        first_seen = list(dict.fromkeys(request.id for call in calls for request in call))
        assert first_seen == [request.id for request in requests if request.id in first_seen]


def any_delay(schedule):
    return schedule.default_queue_policy.timeout_action is TimeoutAction.DELAY
