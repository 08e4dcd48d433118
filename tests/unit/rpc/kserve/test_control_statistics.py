"""ModelStatistics: all that was counted comes out, in the fields of the protocol."""

import time
from typing import Any

import pytest
from control_fakes import FakeRegistry, House, served
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, internal, unavailable
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import StageTimes
from nextact_server.rpc.kserve.statistics import version_counts


class Nobody:
    def respond(self, request: object, response: object, final: bool) -> None:
        """Nobody listens."""


def ran(rows: int) -> tuple[list[InferRequest], int, StageTimes]:
    request = InferRequest({}, Nobody(), batch_size=rows)
    times = StageTimes()
    times.input_ns, times.infer_ns, times.output_ns = 10, 20, 30
    return [request], request.arrived_ns + 5, times


def statistics(house: House, name: str = "", version: str = "") -> Any:
    request = pb.ModelStatisticsRequest(name=name, version=version)
    return house.call("ModelStatistics", request, pb.ModelStatisticsResponse)


def test_a_fresh_model_has_every_duration_at_zero() -> None:
    [found] = statistics(House(served("m")), "m").model_stats
    assert (found.name, found.version, found.last_inference, found.inference_count) == ("m", "1", 0, 0)
    for field in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit"):
        assert found.inference_stats.HasField(field), field
    assert not found.batch_stats
    assert not found.response_stats
    assert not found.memory_usage


def test_everything_counted_comes_out() -> None:
    model = served("m")
    counts = model.statistics
    for rows in (3, 1):
        counts.entered(1)
        counts.executed(*ran(rows))
    counts.succeeded(2, 200)
    counts.failed(internal("x"), 7)
    counts.cache_hit(4)
    counts.cache_missed(6)
    counts.streamed(0, "success", 8, 9)
    counts.streamed(1, "empty_response", 2, 0)
    [found] = statistics(House(model), "m", "1").model_stats
    assert abs(found.last_inference - time.time() * 1000) < 60_000
    assert (found.inference_count, found.execution_count) == (4, 2)
    stats, counted = found.inference_stats, counts.snapshot()
    assert pair(stats.success) == (2, 200)
    assert pair(stats.fail) == (1, 7)
    for field in ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"):
        expected = getattr(counted, field)
        assert expected.count > 0
        assert pair(getattr(stats, field)) == (expected.count, expected.ns), field
    assert [(batch.batch_size, pair(batch.compute_infer)) for batch in found.batch_stats] == [
        (1, (1, 20)),
        (3, (1, 20)),
    ]
    assert pair(found.response_stats["0"].success) == (1, 17)
    assert pair(found.response_stats["0"].compute_output) == (1, 9)
    assert pair(found.response_stats["1"].empty_response) == (1, 2)


def test_no_name_means_all_models_and_no_version_all_versions() -> None:
    house = House(served("n", 10), served("n", 9), served("m"))
    assert listed(statistics(house)) == ["m/1", "n/9", "n/10"]
    assert listed(statistics(house, version="1")) == ["m/1", "n/9", "n/10"], "a version says nothing without a name"
    assert listed(statistics(house, "n")) == ["n/9", "n/10"]
    assert listed(statistics(house, "n", "10")) == ["n/10"]


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("nosuch", "", "requested model 'nosuch' is not available"),
        ("nosuch", "1", "requested model 'nosuch' is not available"),
        ("m", "9", "requested model version is not available for model 'm'"),
        ("", "abc", "failed to get model version from specified version string 'abc'"),
    ],
)
def test_what_is_not_there_has_no_statistics(name: str, version: str, message: str) -> None:
    with pytest.raises(InferError) as no:
        statistics(House(served("m")), name, version)
    assert no.value.code is ErrorCode.INVALID_ARG
    assert no.value.message.startswith(message)


def test_metrics_get_the_counts_of_every_version_and_whether_it_is_cached() -> None:
    cached = served("n", response_cache=True)
    cached.statistics.failed(unavailable("full"), 1)
    found = version_counts(FakeRegistry(cached, served("m", 2)))
    assert [(version.model, version.version, version.cached) for version in found] == [
        ("m", "2", False),
        ("n", "1", True),
    ]
    assert found[1].counts.failures == {"REJECTED": 1}


def pair(duration: Any) -> tuple[int, int]:
    return duration.count, duration.ns


def listed(answer: Any) -> list[str]:
    return [f"{found.name}/{found.version}" for found in answer.model_stats]
