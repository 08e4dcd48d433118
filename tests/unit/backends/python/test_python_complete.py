"""A model's auto_complete_config: what it may add to a configuration, and what it is told where it contradicts it."""

import pytest
from google.protobuf import text_format
from python_house import House

from nextact_server.inference.infer_errors import InferError

AUTO = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(c):
        {0}
        return c
"""
IO = """
max_batch_size: 8
input { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }
"""
ADDS = (
    "c.add_input({'name': 'IN', 'data_type': 'TYPE_FP32', 'dims': [4], 'optional': True}); "
    "c.add_output({'name': 'OUT', 'data_type': 'TYPE_FP32', 'dims': [4]})"
)


def completed(house: House, config: str, body: str = "pass", code: str | None = None) -> str:
    directory = house.write("m", AUTO.format(body) if code is None else code)
    found = house.backend.complete(house.config("m", config), directory / "1")
    return text_format.MessageToString(found, as_one_line=True)


def test_a_model_completes_its_configuration(house: House) -> None:
    body = (
        ADDS
        + "; c.set_max_batch_size(8); c.set_dynamic_batching(); c.set_model_transaction_policy({'decoupled': True})"
    )
    assert completed(house, "", body) == (
        'name: "m" max_batch_size: 8 input { name: "IN" data_type: TYPE_FP32 dims: 4 optional: true } '
        'output { name: "OUT" data_type: TYPE_FP32 dims: 4 } dynamic_batching { } backend: "python" '
        "model_transaction_policy { decoupled: true }"
    )


def test_what_is_set_already_stays_and_other_fields_are_not_the_models(house: House) -> None:
    body = "c.set_max_batch_size(16); c.as_dict()['instance_group'] = [{'count': 3}]; c.as_dict()['nope'] = 1"
    config = IO + ' parameters { key: "a" value { string_value: "b" } }'
    expected = completed(house, config.replace("8", "16"), code="class TritonPythonModel: pass")
    assert completed(house, config, body) == expected


ADD = "c.add_{0}({{'name': '{1}', 'data_type': '{2}', {3}}})"
WHERE = "in auto-complete-config function for model 'm'"
REFUSALS = [
    (IO, "return None", "auto_complete_config function in model 'm' must return a valid pb.ModelConfig object."),
    (IO, "raise ValueError('no')", "ValueError: no\n\nAt:\n  {file}(8): auto_complete_config\n"),
    (
        IO,
        "c.set_max_batch_size(4)",
        f"ValueError: configuration specified max_batch_size 8, but {WHERE} specified max_batch_size 4",
    ),
    (
        IO,
        ADD.format("input", "IN", "TYPE_INT32", "'dims': [4]"),
        (
            "ValueError: unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'IN', "
            "model provides TYPE_INT32"
        ),
    ),
    (
        IO,
        ADD.format("output", "OUT", "TYPE_FP32", "'dims': [5]"),
        (
            "ValueError: model 'm', tensor 'OUT': the model expects dims [5] but the model configuration specifies "
            "dims [4]"
        ),
    ),
    (
        IO,
        ADD.format("input", "IN", "TYPE_FP32", "'dims': [4], 'x': 1"),
        f"ValueError: input 'IN' {WHERE} contains property other than 'name', 'data_type', 'dims' and 'optional'.",
    ),
    (
        IO,
        ADD.format("output", "OUT", "TYPE_FP32", ""),
        f"ValueError: output 'OUT' {WHERE} is missing 'dims' property.",
    ),
    (
        "sequence_batching { }",
        "c.set_dynamic_batching()",
        (
            f"ValueError: Configuration specified scheduling_choice as 'sequence_batching', but {WHERE[3:]} tries to "
            "set scheduling_choice as 'dynamic_batching'"
        ),
    ),
    (
        "model_transaction_policy { decoupled: true }",
        "c.set_model_transaction_policy({'decoupled': False})",
        (
            "ValueError: trying to change decoupled property in auto-complete-config for model 'm', which is already "
            "set to 'True'."
        ),
    ),
    (
        "",
        "c.set_model_transaction_policy({'x': 1})",
        f"ValueError: model transaction property {WHERE} contains property other than 'decoupled'.",
    ),
    (
        "",
        ADD.format("input", "IN", "TYPE_NOPE", "'dims': [4]"),
        "auto_complete_config function in model 'm' gave a configuration that cannot be read: ",
    ),
]


@pytest.mark.parametrize(("config", "body", "message"), REFUSALS)
def test_a_completion_that_contradicts_the_configuration_is_refused(
    house: House, config: str, body: str, message: str
) -> None:
    with pytest.raises(InferError) as failure:
        completed(house, config, body)
    assert failure.value.message.startswith(message.format(file=house.root / "m/1/model.py"))
