"""A completed configuration as plain values, its labels and first states."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from nextact_server.inference.infer_errors import ErrorCode, InferError, internal, unavailable
from nextact_server.inference.infer_spec import (
    BatchInput,
    ControlKind,
    DynamicBatching,
    EnsembleStep,
    InstanceGroup,
    ModelSpec,
    QueuePolicy,
    SequenceBatching,
    SequenceControl,
    SequenceState,
    TensorSpec,
    TimeoutAction,
)
from nextact_server.inference.tensors import DataType, encode_bytes
from nextact_server.repository.errors import RepositoryError, status_text
from nextact_server.repository.initial_state import initial_states
from nextact_server.repository.policy import missing_versions, offered_versions, parse_version
from nextact_server.repository.spec import spec_of


def spec(text: str, model_dir: Path = Path("/nowhere"), version: int = 3) -> ModelSpec:
    return spec_of(text_format.Parse(f'name: "net" {text}', model_config_pb2.ModelConfig()), version, model_dir)


def test_every_field_of_a_tensor(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n\nfish\n")
    made = spec(
        """
        backend: "python" max_batch_size: 8
        input [
          { name: "A" data_type: TYPE_STRING dims: [ -1, 2 ] optional: true allow_ragged_batch: true },
          { name: "B" data_type: TYPE_BF16 dims: [ 2 ] reshape { shape: [ 1, 2 ] } },
          { name: "C" data_type: TYPE_BOOL dims: [ 1 ] reshape { shape: [ ] } }
        ]
        output [ { name: "OUT" data_type: TYPE_FP16 dims: [ 4 ] label_filename: "labels.txt" } ]
        batch_input [
          { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "N" data_type: TYPE_FP32 source_input: "A" }
        ]
        model_transaction_policy { decoupled: true } response_cache { enable: true }
        """,
        tmp_path,
    )
    assert (made.name, made.version, made.platform, made.max_batch_size) == ("net", 3, "python", 8)
    assert made.inputs == (
        TensorSpec("A", DataType.BYTES, (-1, 2), optional=True, ragged=True),
        TensorSpec("B", DataType.BF16, (2,), reshape=(1, 2)),
        TensorSpec("C", DataType.BOOL, (1,), reshape=()),
    )
    assert made.outputs == (TensorSpec("OUT", DataType.FP16, (4,), labels=("cat", "dog", "", "fish")),)
    assert made.batch_inputs == (BatchInput("BATCH_ACCUMULATED_ELEMENT_COUNT", ("N",), DataType.FP32, ("A",)),)
    assert made.decoupled
    assert made.response_cache
    assert made.schedule is None


def test_a_label_file_that_is_missing_is_named_as_triton_does(tmp_path: Path) -> None:
    output = 'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "nolabels.txt" } ]'
    with pytest.raises(InferError) as caught:
        spec(output, tmp_path)
    assert caught.value.code is ErrorCode.INTERNAL
    assert (
        caught.value.message == f"failed to open text file for read {tmp_path}/nolabels.txt: No such file or directory"
    )


def test_every_field_of_dynamic_batching() -> None:
    made = spec("""
        max_batch_size: 8
        dynamic_batching {
          preferred_batch_size: [ 4, 2 ] max_queue_delay_microseconds: 100 preserve_ordering: true
          priority_levels: 2 default_priority_level: 1
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 allow_timeout_override: true }
          priority_queue_policy { key: 2 value { max_queue_size: 9 } }
        }
    """)
    assert made.schedule == DynamicBatching(
        preferred_batch_size=(2, 4),
        max_queue_delay_us=100,
        preserve_ordering=True,
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy=QueuePolicy(TimeoutAction.DELAY, 5, True, 0),
        priority_queue_policy={2: QueuePolicy(max_queue_size=9)},
    )


def test_the_preferred_size_that_is_filled_in_says_nothing() -> None:
    made = spec("max_batch_size: 8 dynamic_batching { preferred_batch_size: [ 8 ] }")
    assert made.schedule == DynamicBatching()


def test_every_field_of_sequence_batching() -> None:
    made = spec("""
        max_batch_size: 8
        sequence_batching {
          max_sequence_idle_microseconds: 7 iterative_sequence: true
          control_input [
            { name: "S" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
            { name: "R" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ -1, 0.5 ] } ] },
            { name: "E" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] },
            { name: "C" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ] }
          ]
          state [ { input_name: "I" output_name: "O" data_type: TYPE_INT32 dims: [ -1 ]
            initial_state { name: "x" data_type: TYPE_INT32 dims: [ 2 ] data_file: "first" } } ]
          oldest { max_candidate_sequences: 4 preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 3
            preserve_ordering: true }
        }
    """)
    assert made.schedule == SequenceBatching(
        strategy="oldest",
        max_sequence_idle_us=7,
        controls=(
            SequenceControl("S", ControlKind.START, DataType.INT32, (0, 1)),
            SequenceControl("R", ControlKind.READY, DataType.FP32, (-1, 0.5)),
            SequenceControl("E", ControlKind.END, DataType.BOOL, (0, 1)),
            SequenceControl("C", ControlKind.CORRID, DataType.BYTES),
        ),
        states=(SequenceState("I", "O", DataType.INT32, (-1,), "first"),),
        iterative=True,
        max_queue_delay_us=3,
        max_candidate_sequences=4,
        preferred_batch_size=(2,),
        preserve_ordering=True,
    )


def test_the_direct_strategy_is_that_of_a_config_that_names_none() -> None:
    made = spec("sequence_batching { direct { max_queue_delay_microseconds: 5 minimum_slot_utilization: 0.5 } }")
    assert isinstance(made.schedule, SequenceBatching)
    assert (made.schedule.strategy, made.schedule.max_queue_delay_us) == ("direct", 5)
    assert made.schedule.minimum_slot_utilization == 0.5
    unnamed = spec("sequence_batching { }").schedule
    assert isinstance(unnamed, SequenceBatching)
    assert unnamed.strategy == "direct"


def test_steps_of_an_ensemble() -> None:
    made = spec("""
        platform: "ensemble"
        ensemble_scheduling { step [
          { model_name: "a" model_version: -1 input_map { key: "X" value: "in" } output_map { key: "Y" value: "mid" } },
          { model_name: "b" model_version: 2 input_map { key: "X" value: "mid" } output_map { key: "Y" value: "out" } }
        ] }
    """)
    assert made.platform == "ensemble"
    assert made.schedule == (
        EnsembleStep("a", "", {"X": "in"}, {"Y": "mid"}),
        EnsembleStep("b", "2", {"X": "mid"}, {"Y": "out"}),
    )


def test_instance_groups_with_their_resources() -> None:
    made = spec("""
        instance_group [ { name: "g" kind: KIND_GPU count: 2 gpus: [ 0, 1 ] rate_limiter {
          resources [ { name: "R" count: 4 }, { name: "G" count: 2 global: true } ] priority: 3 } } ]
    """)
    assert made.instance_groups == (
        InstanceGroup("g", "KIND_GPU", 2, (0, 1), (("R", False, 4), ("G", True, 2)), rate_priority=3),
    )


def state(data: str, data_type: str = "TYPE_INT32", dims: str = "2") -> object:
    return text_format.Parse(
        f'sequence_batching {{ state [ {{ input_name: "I" output_name: "O" data_type: {data_type} dims: [ -1 ] '
        f'initial_state {{ name: "x" data_type: {data_type} dims: [ {dims} ] {data} }} }} ] }}',
        model_config_pb2.ModelConfig(),
    )


def test_first_states_are_zeros_or_read_little_endian(tmp_path: Path) -> None:
    folder = tmp_path / "initial_state"
    folder.mkdir()
    assert initial_states(state("zero_data: true"), tmp_path)["I"].tolist() == [0, 0]
    (folder / "f").write_bytes(np.array([1, 258], "<i4").tobytes())
    assert initial_states(state('data_file: "f"'), tmp_path)["I"].tolist() == [1, 258]
    (folder / "b").write_bytes(np.array([1.5, -2], ml_dtypes.bfloat16).tobytes())
    read = initial_states(state('data_file: "b"', "TYPE_BF16"), tmp_path)["I"]
    assert read.dtype == ml_dtypes.bfloat16
    assert read.tolist() == [1.5, -2]
    (folder / "s").write_bytes(encode_bytes(np.array([b"a", b"bc"], np.object_)))
    assert initial_states(state('data_file: "s"', "TYPE_STRING"), tmp_path)["I"].tolist() == [b"a", b"bc"]
    assert initial_states(state("zero_data: true", "TYPE_STRING"), tmp_path)["I"].tolist() == [b"", b""]
    (folder / "f").write_bytes(b"\0" * 7)
    with pytest.raises(InferError, match="expects 8 bytes, but the data provided from f has 7 bytes"):
        initial_states(state('data_file: "f"'), tmp_path)
    with pytest.raises(InferError, match=r"failed to open text file for read .*/initial_state/gone: No such file"):
        initial_states(state('data_file: "gone"'), tmp_path)


def policy(text: str) -> object:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("", (9,)),
        ("version_policy { all { } }", (1, 3, 9)),
        ("version_policy { latest { } }", ()),
        ("version_policy { latest { num_versions: 2 } }", (3, 9)),
        ("version_policy { latest { num_versions: 20 } }", (1, 3, 9)),
        ("version_policy { specific { versions: [ 9, 7, 1 ] } }", (1, 9)),
        ("version_policy { specific { } }", ()),
    ],
)
def test_policies_choose_as_triton_does(text: str, offered: tuple[int, ...]) -> None:
    assert offered_versions(policy(text), [3, 9, 1]) == offered
    assert offered_versions(policy(text), []) == ()


def test_versions_that_a_policy_names_in_vain_are_known() -> None:
    assert missing_versions(policy("version_policy { specific { versions: [ 9, 7, 1 ] } }"), [1, 9]) == [7]
    assert missing_versions(policy(""), [1]) == []


@given(st.sets(st.integers(1, 50)), st.integers(1, 60))
def test_latest_n_are_the_n_highest(numbers: set[int], count: int) -> None:
    config = policy(f"version_policy {{ latest {{ num_versions: {count} }} }}")
    assert offered_versions(config, list(numbers)) == tuple(sorted(numbers)[-count:])


@given(st.integers(0, 2**63 - 1), st.sampled_from(["", " ", "+", "000"]), st.sampled_from(["", " ", "x", ".5"]))
def test_a_version_is_read_to_where_it_ends(number: int, before: str, after: str) -> None:
    assert parse_version(f"{before}{number}{after}") == number


def test_reasons_carry_tritons_status_names(tmp_path: Path) -> None:
    assert status_text(internal("x")) == "Internal: x"
    assert status_text(unavailable("x")) == "Unavailable: x"
    assert status_text(RepositoryError(tmp_path, "x")) == f"Invalid argument: {tmp_path}: x"
    assert status_text(ValueError("x")) == "Internal: ValueError: x"
