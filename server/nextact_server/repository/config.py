"""One model's `config.pbtxt`: Triton's `ModelConfig` in protobuf text format, checked for what this server uses."""

import re
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nextact_server.repository.errors import RepositoryError

__all__ = ["CONFIG_FILE", "ModelConfig", "instance_kind", "max_queue_delay_s", "parameter", "parse_config"]

CONFIG_FILE = "config.pbtxt"

ModelConfig = Any
"""A `tritonclient.grpc.model_config_pb2.ModelConfig`, which has no types of its own."""

KINDS = {"KIND_AUTO": "KIND_AUTO", "KIND_CPU": "KIND_CPU", "KIND_GPU": "KIND_GPU"}


def parse_config(path: Path) -> ModelConfig:
    """Read a model's configuration. Its name may be left out, then it is that of the directory, as Triton has it.

    Raises:
        RepositoryError: unreadable, not the text format, an unknown field, or a value that makes no sense here.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise RepositoryError(path, f"cannot be read: {reason}") from error
    try:
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        # The message starts with line:column of its own.
        reason = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise RepositoryError(path, reason, line=error.GetLine()) from error
    _check(config, path, text)
    return config


def instance_kind(config: ModelConfig) -> str:
    """Return the kind of the first instance group: KIND_AUTO where there is none."""
    if not config.instance_group:
        return "KIND_AUTO"
    return str(model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind))


def max_queue_delay_s(config: ModelConfig) -> float:
    """Return the batching delay in seconds: 0 where none is set."""
    return float(config.dynamic_batching.max_queue_delay_microseconds) / 1e6


def parameter(config: ModelConfig, name: str, default: str) -> str:
    """Return a free parameter's string value, or the default where it is not set."""
    return str(config.parameters[name].string_value) if name in config.parameters else default


def _check(config: ModelConfig, path: Path, text: str) -> None:
    directory = path.parent.name
    if not config.name:
        config.name = directory
    if config.name != directory:
        raise RepositoryError(
            path,
            f"is {config.name!r}, but the model's directory is {directory!r}",
            line=_line_of(text, "name"),
            field="name",
        )
    if not config.backend:
        raise RepositoryError(path, "is missing: it says which code runs the model", field="backend")
    if config.max_batch_size < 0:
        raise RepositoryError(
            path,
            f"is {config.max_batch_size}, and must not be negative",
            line=_line_of(text, "max_batch_size"),
            field="max_batch_size",
        )
    if config.instance_group and instance_kind(config) not in KINDS:
        raise RepositoryError(
            path,
            f"is {instance_kind(config)}, and must be one of {', '.join(KINDS)}",
            line=_line_of(text, "kind"),
            field="instance_group.kind",
        )


def _line_of(text: str, field: str) -> int | None:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*{field}\s*:", line):
            return number
    return None
