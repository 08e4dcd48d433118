"""What is wrong with a configuration is said in Triton's words; the wordings were measured on Triton 2.51."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.repository.check_tensors import check_tensors
from nextact_server.repository.checks import check_config
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.defaults import fill_defaults
from nextact_server.repository.errors import RepositoryError

IN = 'input [ { name: "IN" data_type: TYPE_FP32 dims: [ -1 ] } ]'
OUT = 'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] } ]'
BASE = f'backend: "b"\nmax_batch_size: 8\n{IN}\n{OUT}\n'
CORRID_TYPES = "Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"
START = "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]"
FALSE_TRUE = "'int32_false_true', 'fp32_false_true' or 'bool_false_true'"


def config(text: str) -> ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def control(*bodies: str, names: tuple[str, ...] = ('name: "S"',)) -> str:
    inputs = ", ".join(f"{{ {name} control [ {{ {body} }} ] }}" for name, body in zip(names, bodies, strict=True))
    return f"sequence_batching {{ control_input [ {inputs} ] }}"


def state(body: str) -> str:
    return f"sequence_batching {{ state [ {{ {body} }} ] }}"


def step(model: str, inputs: str, outputs: str) -> str:
    into, out = inputs.split(":"), outputs.split(":")
    return (
        f'{{ model_name: "{model}" model_version: -1 input_map {{ key: "{into[0]}" value: "{into[1]}" }} '
        f'output_map {{ key: "{out[0]}" value: "{out[1]}" }} }}'
    )


def ensemble(*steps: str) -> str:
    return (
        f'platform: "ensemble"\nmax_batch_size: 8\n{IN}\n{OUT}\nensemble_scheduling {{ step [ {", ".join(steps)} ] }}'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'name: "other"\n' + BASE,
            "unexpected directory name 'net' for model 'other', directory name must equal model name",
        ),
        ("max_batch_size: -1", "'max_batch_size' must be non-negative value for net"),
        (
            BASE + "dynamic_batching { preferred_batch_size: [ 16 ] }",
            "dynamic batching preferred size must be <= max batch size for net",
        ),
        (
            BASE + "dynamic_batching { preferred_batch_size: [ 0 ] }",
            "dynamic batching preferred size must be positive for net",
        ),
        (
            BASE + "dynamic_batching { priority_levels: 2 default_priority_level: 5 }",
            "default priority level must be in range [1, 2] for net",
        ),
        (BASE + "dynamic_batching { priority_levels: 2 }", "default priority level must be in range [1, 2] for net"),
        (
            BASE + "dynamic_batching { priority_levels: 2 default_priority_level: 1 "
            "priority_queue_policy { key: 9 value { max_queue_size: 1 } } }",
            "priority queue policy must have priority level in range [1, 2] for net",
        ),
        (
            BASE + "sequence_batching { oldest { preferred_batch_size: [ 16 ] } }",
            "sequence batching preferred batch size must be <= max batch size for net",
        ),
        (
            BASE + control("kind: CONTROL_SEQUENCE_START"),
            f"sequence batching must specify either {FALSE_TRUE} for CONTROL_SEQUENCE_START for net",
        ),
        (
            BASE + control("kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1, 2 ]"),
            (
                "sequence batching control 'int32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_START "
                "for net"
            ),
        ),
        (
            BASE + control("kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] fp32_false_true: [ 0, 1 ]"),
            (
                "sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and "
                "'bool_false_true' for CONTROL_SEQUENCE_START for net"
            ),
        ),
        (
            BASE + control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32"),
            f"unexpected data type for control CONTROL_SEQUENCE_CORRID for net. {CORRID_TYPES}",
        ),
        (
            BASE + control("kind: CONTROL_SEQUENCE_CORRID"),
            f"unexpected data type for control CONTROL_SEQUENCE_CORRID for net. {CORRID_TYPES}",
        ),
        (
            BASE + control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 int32_false_true: [ 0, 1 ]"),
            f"sequence batching must not specify either {FALSE_TRUE} for CONTROL_SEQUENCE_CORRID for net",
        ),
        (
            BASE + "sequence_batching { direct { minimum_slot_utilization: 2 } }",
            "sequence batching minimum slot utilization must be in range (0.0, 1.0] for net",
        ),
        (
            BASE + control(START, names=("",)),
            "sequence batching control tensor must have a name for net",
        ),
        (
            BASE + control(START, START, names=('name: "S"', 'name: "T"')),
            "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for net",
        ),
        (
            BASE + control(START, START.replace("START", "END"), names=('name: "S"', 'name: "S"')),
            "sequence batching control tensor 'S' is specified for multiple control kinds for net",
        ),
        (
            BASE + "model_transaction_policy { decoupled: true } response_cache { enable: true }",
            (
                "Response Cache does not currently support model net with 'decoupled' transaction policy. Please "
                "disable the response cache."
            ),
        ),
        (
            BASE + "sequence_batching { } response_cache { enable: true }",
            "Response Cache does not currently support model net with sequence batching scheduler. Please disable",
        ),
        ('platform: "ensemble"', "ensemble scheduling must be set for ensemble net whose platform is ensemble"),
        (BASE + "ensemble_scheduling { }", "ensemble scheduling cannot be set for model net whose platform is not"),
        (ensemble(), "must specify 'step' for ensemble 'net'"),
        (
            ensemble(step("m", "IN:IN", "OUT:OUT")) + " instance_group [ { count: 1 } ]",
            "instance group should not be specified for ensemble 'net'",
        ),
        (ensemble('{ input_map { key: "a" value: "IN" } }'), "must specify 'model_name' in step 0 of ensemble 'net'"),
        (ensemble('{ model_name: "m" }'), "must specify 'input_map' in step 0 of ensemble 'net'"),
        (
            ensemble('{ model_name: "m" input_map { key: "a" value: "IN" } }'),
            "must specify 'output_map' in step 0 of ensemble 'net'",
        ),
        (ensemble(step("m", "IN:IN", "OUT:mid")), "ensemble output 'OUT' for ensemble net' is not used"),
        (ensemble(step("m", "IN:nowhere", "OUT:OUT")), "ensemble input 'IN' for ensemble net' is not used"),
        (
            ensemble(step("m", "IN:IN", "OUT:OUT"), step("n", "IN:IN", "OUT:dead")),
            "ensemble tensor 'dead' is unused in ensemble 'net'",
        ),
        (
            ensemble(step("m", "IN:IN", "OUT:OUT"), step("n", "IN:IN", "OUT:OUT")),
            "ensemble tensor 'OUT' can appear in an output map only once for ensemble 'net' step 1",
        ),
        (
            ensemble(step("m", "IN:IN", "OUT:a"), step("n", "IN:b", "OUT:OUT"), step("o", "IN:a", "OUT:c")),
            "ensemble tensor 'c' is unused",
        ),
        (
            ensemble(step("m", "IN:IN", "OUT:OUT"), step("o", "IN:b", "OUT:c"), step("p", "IN:c", "OUT:b")),
            "the steps of ensemble 'net' wait for one another: o, p",
        ),
    ],
)
def test_a_config_as_a_whole(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "net" / "config.pbtxt"
    with pytest.raises(RepositoryError) as caught:
        check_config(config(text), path, "net")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        BASE + "dynamic_batching { preferred_batch_size: [ 4, 8 ] priority_levels: 2 default_priority_level: 2 }",
        BASE.replace("max_batch_size: 8", "") + "dynamic_batching { }",
        BASE + control("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING"),
        ensemble(step("n", "IN:mid", "OUT:OUT"), step("m", "IN:IN", "OUT:mid")),
    ],
)
def test_what_is_right_passes(tmp_path: Path, text: str) -> None:
    checked = config(text)
    check_config(checked, tmp_path, "net")
    assert checked.name == "net"


def tensors(body: str) -> str:
    return f'name: "net" backend: "b" max_batch_size: 8 input [ {{ {body} }} ] {OUT}'


DIMENSION = "dimension must be integer >= 1, or -1 to indicate a variable-size dimension for net"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (tensors("data_type: TYPE_FP32 dims: [ 1 ]"), "model input must specify 'name' for net"),
        (tensors('name: "IN" dims: [ 1 ]'), "model input 'IN' must specify 'data_type' for net"),
        (tensors('name: "IN" data_type: 99 dims: [ 1 ]'), "model input 'IN' must specify 'data_type' for net"),
        (tensors('name: "IN" data_type: TYPE_FP32'), "model input 'IN' must specify 'dims' for net"),
        (tensors('name: "IN" data_type: TYPE_FP32 dims: [ 0 ]'), f"model input 'IN' {DIMENSION}"),
        (tensors('name: "IN" data_type: TYPE_FP32 dims: [ -2 ]'), f"model input 'IN' {DIMENSION}"),
        (
            tensors('name: "IN" data_type: TYPE_FP32 dims: [ 2 ] reshape: { shape: [ 3 ] }'),
            "model input 'IN' has different size for dims and reshape for net",
        ),
        (
            tensors('name: "IN" data_type: TYPE_FP32 dims: [ -1, 2 ] reshape: { shape: [ 2 ] }'),
            "model input 'IN' has different size for dims and reshape for net",
        ),
        (
            tensors('name: "IN" data_type: TYPE_FP32 dims: [ 4 ] format: FORMAT_NHWC'),
            "model input NHWC/NCHW require 3 dims for net",
        ),
        (
            tensors('name: "IN" data_type: TYPE_FP32 dims: [ 1 ]') + "input [ "
            '{ name: "IN" data_type: TYPE_FP32 dims: [ 1 ] } ]',
            "model input 'IN' is specified more than once for net",
        ),
        (
            f'name: "net" backend: "b" {IN} output [ {{ name: "OUT" data_type: TYPE_FP32 dims: [ 0 ] }} ]',
            f"model output 'OUT' {DIMENSION}",
        ),
        (
            'name: "net" ' + BASE + 'batch_input [ { target_name: "X" data_type: TYPE_FP32 source_input: "NOPE" } ]',
            "unknown source input name 'NOPE' for net",
        ),
        (
            'name: "net" ' + BASE + state('input_name: "S" data_type: TYPE_INT32 dims: [ 1 ]'),
            "'input_name' and 'output_name' for net",
        ),
        (
            'name: "net" ' + BASE + state('input_name: "S" output_name: "T" dims: [ 1 ]'),
            "state 'S' must specify 'data_type' for net",
        ),
        (
            'name: "net" ' + BASE + state('input_name: "S" output_name: "T" data_type: TYPE_INT32 dims: [ 0 ]'),
            "state 'S' dimension must be integer >= 1",
        ),
        (
            'name: "net" '
            + BASE
            + state(
                'input_name: "S" output_name: "T" data_type: TYPE_INT32 dims: [ 1 ] '
                "initial_state { data_type: TYPE_INT32 dims: [ 1 ] zero_data: true }"
            ),
            "Field 'name' must be set when using initial_state for state input 'S'.",
        ),
        (
            'name: "net" '
            + BASE
            + state(
                'input_name: "S" output_name: "T" data_type: TYPE_INT32 dims: [ 1 ] '
                'initial_state { name: "x" data_type: TYPE_FP32 dims: [ 1 ] zero_data: true }'
            ),
            "The data type used for 'initial_state' field of state 'S' does not match the state data type.",
        ),
        (
            'name: "net" '
            + BASE
            + state(
                'input_name: "S" output_name: "T" data_type: TYPE_INT32 dims: [ 2 ] '
                'initial_state { name: "x" data_type: TYPE_INT32 dims: [ 1, 2 ] zero_data: true }'
            ),
            "The dims used for 'initial_state' field of state 'S' do not fit the state dims: [1, 2], and the state has",
        ),
        (
            'name: "net" '
            + BASE
            + state(
                'input_name: "S" output_name: "T" data_type: TYPE_INT32 dims: [ 1 ] '
                'initial_state { name: "x" data_type: TYPE_INT32 dims: [ 1 ] }'
            ),
            "initial_state setting expects state 'S' to have state_data set",
        ),
        (
            'name: "net" '
            + BASE
            + state('input_name: "S" output_name: "T" data_type: TYPE_INT32 dims: [ 1 ] ' + 2 * "initial_state { } "),
            "state input 'S' must contain exactly one or zero element. Found '2' elements.",
        ),
        (
            'name: "net" ' + BASE + 'batch_input [ { data_type: TYPE_FP32 source_input: "IN" } ]',
            "batch input must specify 'target_name' for net",
        ),
        (
            'name: "net" ' + BASE + 'batch_input [ { target_name: "X" source_input: [ "IN", "IN" ] } ]',
            "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 2 for net",
        ),
        (
            'name: "net" ' + BASE + 'batch_input [ { target_name: "X" data_type: TYPE_INT8 source_input: "IN" } ]',
            "batch input data type must be TYPE_INT32 or TYPE_FP32 for net",
        ),
        (
            'name: "net" ' + BASE + 'batch_output [ { target_name: "NOPE" source_input: "IN" } ]',
            "unknown target output name 'NOPE' for net",
        ),
        (
            'name: "net" ' + BASE + 'batch_output [ { target_name: "OUT" source_input: "NOPE" } ]',
            "unknown source input name 'NOPE' for net",
        ),
        (
            'name: "net" ' + BASE + "instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]",
            "instance group net_0 of model net has kind KIND_CPU but specifies one or more GPUs",
        ),
        (
            'name: "net" ' + BASE + "instance_group [ { kind: KIND_MODEL gpus: [ 0 ] } ]",
            "instance group net_0 of model net has kind KIND_MODEL but specifies one or more GPUs",
        ),
        (
            'name: "net" ' + BASE + "instance_group [ { kind: KIND_GPU gpus: [ 99 ] } ]",
            "instance group net_0 of model net specifies invalid or unsupported gpu id 99. GPUs with at least",
        ),
    ],
)
def test_tensors_and_instances(text: str, said: str) -> None:
    completed = config(text)
    fill_defaults(completed)
    with pytest.raises(InferError) as caught:
        check_tensors(completed)
    assert caught.value.code is ErrorCode.INVALID_ARG
    assert said in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        'name: "IN" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] }',
        'name: "IN" data_type: TYPE_FP32 dims: [ 2 ] reshape: { shape: [ 1, 2 ] }',
        'name: "IN" data_type: TYPE_FP32 dims: [ 4, -1, 2 ] reshape: { shape: [ 2, 2, -1, 2 ] }',
        'name: "IN" data_type: TYPE_BF16 dims: [ -1, 3, 2 ] format: FORMAT_NHWC',
    ],
)
def test_tensors_that_are_right_pass(body: str) -> None:
    completed = config(tensors(body))
    fill_defaults(completed)
    check_tensors(completed)
