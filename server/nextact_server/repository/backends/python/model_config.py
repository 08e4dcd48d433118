"""`pb_utils.ModelConfig`: the configuration in the hands of a model's auto_complete_config."""

import json
from typing import Any

__all__ = ["ModelConfig"]

Properties = dict[str, Any]

_INPUT_PROPERTIES = ("name", "data_type", "dims", "optional")
_OUTPUT_PROPERTIES = ("name", "data_type", "dims")


class ModelConfig:
    """A configuration, from its JSON. What contradicts it is a ValueError, in Triton's words."""

    def __init__(self, model_config: str) -> None:
        self._model_config: Properties = json.loads(model_config)

    def as_dict(self) -> Properties:
        """The whole configuration. Only inputs, outputs, max_batch_size, dynamic_batching and the transaction policy
        are read back from it."""
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set max_batch_size, which may only grow."""
        found = self._model_config["max_batch_size"]
        if found > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {found}, but in auto-complete-config function for model "
                f"'{self._name}' specified max_batch_size {max_batch_size}"
            )
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Choose the dynamic batcher where no scheduler is chosen."""
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._model_config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{other}', but auto-complete-config function for "
                    f"model '{self._name}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        self._model_config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy_dict: Properties) -> None:
        """Set `decoupled`, where it is not set otherwise."""
        if any(key != "decoupled" for key in transaction_policy_dict):
            raise ValueError(
                f"model transaction property in auto-complete-config function for model '{self._name}' contains "
                "property other than 'decoupled'."
            )
        policy = self._model_config.setdefault("model_transaction_policy", {})
        if "decoupled" not in transaction_policy_dict:
            return
        decoupled = transaction_policy_dict["decoupled"]
        if policy.get("decoupled", decoupled) != decoupled:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{self._name}', which is "
                f"already set to '{policy['decoupled']}'."
            )
        policy["decoupled"] = decoupled

    def add_input(self, input: Properties) -> None:
        """Add an input: name, data_type, dims and perhaps optional."""
        self._add("input", input, _INPUT_PROPERTIES, "'name', 'data_type', 'dims' and 'optional'")

    def add_output(self, output: Properties) -> None:
        """Add an output: name, data_type and dims."""
        self._add("output", output, _OUTPUT_PROPERTIES, "'name', 'data_type' and 'dims'")

    def _add(self, kind: str, given: Properties, allowed: tuple[str, ...], spoken: str) -> None:
        where = f"in auto-complete-config function for model '{self._name}'"
        if any(key not in allowed for key in given):
            raise ValueError(f"{kind} '{given['name']}' {where} contains property other than {spoken}.")
        if "name" not in given:
            raise ValueError(f"{kind} {where} is missing 'name' property.")
        for key in ("data_type", "dims"):
            if key not in given:
                raise ValueError(f"{kind} '{given['name']}' {where} is missing '{key}' property.")
        tensors = self._model_config[kind]
        for found in tensors:
            if found["name"] == given["name"]:
                self._check(kind, found, given)
                found.update(given)
                return
        tensors.append(given)

    def _check(self, kind: str, found: Properties, given: Properties) -> None:
        model, name = self._name, given["name"]
        if found["data_type"] not in ("TYPE_INVALID", given["data_type"]):
            raise ValueError(
                f"unable to load model '{model}', configuration expects datatype {found['data_type']} for {kind} "
                f"'{name}', model provides {given['data_type']}"
            )
        if found["dims"] and found["dims"] != given["dims"]:
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects dims {given['dims']} but the model configuration "
                f"specifies dims {found['dims']}"
            )
        if found.get("optional", given.get("optional")) != given.get("optional", found.get("optional")):
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects optional {given['optional']} but the model "
                f"configuration specifies optional {found['optional']}"
            )

    @property
    def _name(self) -> str:
        return str(self._model_config["name"])
