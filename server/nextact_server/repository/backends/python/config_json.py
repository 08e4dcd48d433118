"""A model's configuration as Triton writes it in JSON for models, and back from what a model made of it.

protobuf's own JSON writes 64-bit numbers as strings, and either all fields or only those that are set. Triton writes
every plain field, numbers as numbers, lists and maps even when empty, and only those messages that are set.
"""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.repository.config import ModelConfig

__all__ = ["COMPLETED_FIELDS", "config_json", "take_back"]

Field = Any
"""A field's descriptor; protobuf has one type for each of its implementations."""

COMPLETED_FIELDS = ("max_batch_size", "input", "output", "dynamic_batching", "model_transaction_policy")
"""What a model may complete; Triton takes nothing else back either."""


def config_json(config: ModelConfig) -> str:
    """The `model_config` of initialize's args."""
    return json.dumps(_as_dict(config), separators=(",", ":"))


def take_back(config: ModelConfig, completed: dict[str, Any]) -> None:
    """Write what a model completed into `config`.

    Raises:
        InferError: it is not what the configuration's fields take.
    """
    fields = {name: completed[name] for name in COMPLETED_FIELDS if name in completed}
    made = type(config)()
    try:
        json_format.ParseDict(fields, made)
    except json_format.ParseError as error:
        raise invalid_argument(
            f"auto_complete_config function in model '{config.name}' gave a configuration that cannot be read: {error}"
        ) from error
    for name in fields:
        config.ClearField(name)
    config.MergeFrom(made)


def _as_dict(message: Message) -> dict[str, Any]:
    made = {}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            made[field.name] = _many(field, getattr(message, field.name))
        elif not field.has_presence or message.HasField(field.name):
            made[field.name] = _one(field, getattr(message, field.name))
    return made


def _many(field: Field, values: Any) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        of_value = entry.fields_by_name["value"]
        return {_key(key): _one(of_value, values[key]) for key in values}
    return [_one(field, value) for value in values]


def _one(field: Field, value: Any) -> Any:
    if field.message_type is not None:
        return _as_dict(value)
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)
        return value if found is None else found.name
    return value


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)
