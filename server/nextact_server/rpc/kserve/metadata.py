"""What the server and its models say of themselves: ServerMetadata and ModelMetadata."""

from collections.abc import Sequence

from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_spec import ModelSpec, TensorSpec

__all__ = ["SERVER_NAME", "extensions", "model_metadata", "server_metadata"]

SERVER_NAME = "nextact"

_EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


def extensions(*, cuda: bool) -> list[str]:
    """The protocol's extensions that this server offers. `binary_tensor_data` is of HTTP alone and not among them."""
    return [*_EXTENSIONS, "cuda_shared_memory"] if cuda else list(_EXTENSIONS)


def server_metadata(version: str, *, cuda: bool) -> pb.ServerMetadataResponse:
    """The answer to ServerMetadata."""
    return pb.ServerMetadataResponse(name=SERVER_NAME, version=version, extensions=extensions(cuda=cuda))


def model_metadata(spec: ModelSpec, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """The answer to ModelMetadata: shapes as sent, with the batch axis (-1) in front where there is one."""
    batched = spec.max_batch_size > 0
    return pb.ModelMetadataResponse(
        name=spec.name,
        versions=[str(version) for version in versions],
        platform=spec.platform,
        inputs=[_tensor(tensor, batched) for tensor in spec.inputs],
        outputs=[_tensor(tensor, batched) for tensor in spec.outputs],
    )


def _tensor(tensor: TensorSpec, batched: bool) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = (-1, *tensor.dims) if batched else tensor.dims
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype.value, shape=shape)
