"""One model's `config.pbtxt`: Triton's `ModelConfig` in protobuf text format, checked for what this server uses."""

import re
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from nextact_server.repository.errors import RepositoryError

__all__ = [
    "CONFIG_FILE",
    "ModelConfig",
    "config_of_json",
    "instance_kind",
    "max_queue_delay_s",
    "parameter",
    "parse_config",
    "read_config",
]

CONFIG_FILE = "config.pbtxt"

ModelConfig = Any
"""A `tritonclient.grpc.model_config_pb2.ModelConfig`, which has no types of its own."""

KINDS = {"KIND_AUTO": "KIND_AUTO", "KIND_CPU": "KIND_CPU", "KIND_GPU": "KIND_GPU"}


def parse_config(path: Path) -> ModelConfig:
    """Read the configuration of one of nextact's own models, which names its backend.

    The model's name may be left out, then it is that of the directory, as Triton has it.

    Raises:
        RepositoryError: unreadable, not the text format, an unknown field, or a value that makes no sense here.
    """
    config, text = _read(path)
    _check(config, path, text)
    return config


def read_config(path: Path) -> ModelConfig:
    """Read any model's configuration as it is written, complete or not.

    Raises:
        RepositoryError: unreadable, not the text format, or an unknown field; it names the line.
    """
    config, _ = _read(path)
    return config


def config_of_json(text: str, path: Path) -> ModelConfig:
    """Read a configuration that a load request brings as JSON; `path` stands for it in messages.

    Raises:
        RepositoryError: not JSON, or not that of a ModelConfig.
    """
    try:
        return json_format.Parse(text, model_config_pb2.ModelConfig())
    except json_format.ParseError as error:
        raise RepositoryError(path, f"Invalid config override: {error}") from error


def _read(path: Path) -> tuple[ModelConfig, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise RepositoryError(path, f"cannot be read: {reason}") from error
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig()), text
    except text_format.ParseError as error:
        # The message starts with line:column of its own.
        reason = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise RepositoryError(path, reason, line=error.GetLine()) from error


def instance_kind(config: ModelConfig) -> str:
    """Return the kind of the first instance group: KIND_AUTO where there is none."""
    if not config.instance_group:
        return "KIND_AUTO"
    return str(model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind))


def max_queue_delay_s(config: ModelConfig) -> float:
    """Return the batching delay in seconds, of whichever way of batching is chosen: 0 where none is set."""
    batching = config.dynamic_batching
    if config.HasField("sequence_batching"):
        chosen = config.sequence_batching.WhichOneof("strategy_choice")
        batching = config.sequence_batching.oldest if chosen == "oldest" else config.sequence_batching.direct
    return float(batching.max_queue_delay_microseconds) / 1e6


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
