"""ModelStatistics: the counts of model versions as the statistics extension carries them.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from collections.abc import Sequence

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument
from nextact_server.inference.statistics import BatchCounts, Count, ResponseCounts, StatisticsSnapshot
from nextact_server.repository.policy import parse_version
from nextact_server.repository.served import ServedModel
from nextact_server.rpc.kserve.control_registry import ModelRegistry
from nextact_server.telemetry.triton_metrics import VersionCounts

__all__ = ["model_statistics", "statistics_of", "version_counts"]


def model_statistics(registry: ModelRegistry, name: str, version: str) -> pb.ModelStatisticsResponse:
    """The answer to ModelStatistics: one version, all of a model (`version` ''), or all there are (`name` '').

    Raises:
        InferError: INVALID_ARGUMENT for what is not ready, as Triton answers.
    """
    models = sorted(_asked(registry, name, str(parse_version(version)) if version else ""), key=_key)
    return pb.ModelStatisticsResponse(
        model_stats=[
            statistics_of(model.spec.name, model.spec.version, model.statistics.snapshot()) for model in models
        ]
    )


def statistics_of(name: str, version: int, counts: StatisticsSnapshot) -> pb.ModelStatistics:
    """One version's counts. Every duration is there, also where nothing was counted, as Triton has it.

    `memory_usage` stays empty: models share the process and its allocators, and none is charged with a part of them.
    """
    return pb.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=counts.last_inference_ms,
        inference_count=counts.inference_count,
        execution_count=counts.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counts.success),
            fail=_duration(counts.fail),
            queue=_duration(counts.queue),
            compute_input=_duration(counts.compute_input),
            compute_infer=_duration(counts.compute_infer),
            compute_output=_duration(counts.compute_output),
            cache_hit=_duration(counts.cache_hit),
            cache_miss=_duration(counts.cache_miss),
        ),
        batch_stats=[_batch(size, batch) for size, batch in sorted(counts.batches.items())],
        response_stats={number: _response(response) for number, response in counts.responses.items()},
    )


def version_counts(registry: ModelRegistry) -> list[VersionCounts]:
    """The counts of all ready versions, for `telemetry.triton_metrics.TritonMetrics`."""
    return [
        VersionCounts(
            model.spec.name, str(model.spec.version), model.statistics.snapshot(), cached=model.spec.response_cache
        )
        for model in sorted(registry.all(), key=_key)
    ]


def _asked(registry: ModelRegistry, name: str, version: str) -> Sequence[ServedModel]:
    if not name:
        return registry.all()
    versions = registry.versions(name)
    if not versions:
        raise invalid_argument(f"requested model '{name}' is not available")
    try:
        return [registry.get(name, asked) for asked in ([version] if version else map(str, versions))]
    except InferError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        raise invalid_argument(f"requested model version is not available for model '{name}'") from error


def _key(model: ServedModel) -> tuple[str, int]:
    return model.spec.name, model.spec.version


def _duration(count: Count) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count.count, ns=count.ns)


def _batch(size: int, batch: BatchCounts) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(batch.compute_input),
        compute_infer=_duration(batch.compute_infer),
        compute_output=_duration(batch.compute_output),
    )


def _response(response: ResponseCounts) -> pb.InferResponseStatistics:
    return pb.InferResponseStatistics(
        compute_infer=_duration(response.compute_infer),
        compute_output=_duration(response.compute_output),
        success=_duration(response.success),
        fail=_duration(response.fail),
        empty_response=_duration(response.empty_response),
        cancel=_duration(response.cancel),
    )
