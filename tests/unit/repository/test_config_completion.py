"""What a configuration leaves out is filled in as Triton 2.51 shows it."""

import logging
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from nextact_server.repository.backend_choice import fill_backend
from nextact_server.repository.config import ModelConfig
from nextact_server.repository.defaults import fill_defaults
from nextact_server.repository.errors import RepositoryError
from nextact_server.repository.unsupported import UNSUPPORTED, unsupported_fields, warn_of_unsupported

MINIMAL = """
input { name: "IN" data_type: TYPE_FP32 dims: 4 }
output { name: "OUT" data_type: TYPE_FP32 dims: 4 }
"""
PINNED = "optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }"
ONE_CPU = 'instance_group { name: "net" count: 1 kind: KIND_CPU }'
LATEST = "version_policy { latest { num_versions: 1 } }"


def config(text: str) -> ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def completed(text: str, version_dir: Path) -> ModelConfig:
    made = config(text)
    fill_backend(made, version_dir)
    fill_defaults(made)
    return made


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("", f"{LATEST} {ONE_CPU} {PINNED}"),
        (
            "max_batch_size: 8 dynamic_batching { }",
            f"max_batch_size: 8 {LATEST} {ONE_CPU} {PINNED} dynamic_batching {{ preferred_batch_size: 8 }}",
        ),
        ("dynamic_batching { }", f"{LATEST} {ONE_CPU} {PINNED} dynamic_batching {{ }}"),
        (
            "max_batch_size: 4 sequence_batching { direct { } }",
            (
                f"max_batch_size: 4 {LATEST} {ONE_CPU} {PINNED} "
                "sequence_batching { max_sequence_idle_microseconds: 1000000 direct { } }"
            ),
        ),
        (
            "max_batch_size: 8 sequence_batching { oldest { max_candidate_sequences: 4 } }",
            (
                f"max_batch_size: 8 {LATEST} {ONE_CPU} {PINNED} sequence_batching {{ "
                "max_sequence_idle_microseconds: 1000000 "
                "oldest { max_candidate_sequences: 4 preferred_batch_size: 8 } }"
            ),
        ),
        (
            'instance_group [ { count: 2 kind: KIND_CPU }, { name: "b" kind: KIND_MODEL }, { kind: KIND_AUTO } ]',
            (
                'instance_group { name: "net_0" count: 2 kind: KIND_CPU } instance_group { name: "b" count: 1 '
                'kind: KIND_MODEL } instance_group { name: "net_2" count: 1 kind: KIND_CPU } '
                f"{LATEST} {PINNED}"
            ),
        ),
        ("version_policy { all { } }", f"version_policy {{ all {{ }} }} {ONE_CPU} {PINNED}"),
    ],
)
def test_the_completed_config_is_that_of_triton(tmp_path: Path, written: str, shown: str) -> None:
    made = completed(f'name: "net" backend: "python" {MINIMAL} {written}', tmp_path)
    expected = config(f'name: "net" backend: "python" default_model_filename: "model.py" {MINIMAL} {shown}')
    assert made == expected


def test_an_ensemble_gets_no_instances(tmp_path: Path) -> None:
    step = 'ensemble_scheduling { step { model_name: "a" model_version: -1 } }'
    made = completed(f'name: "ens" platform: "ensemble" {step}', tmp_path)
    assert made == config(f'name: "ens" platform: "ensemble" {step} {LATEST} model_transaction_policy {{ }}')


@pytest.mark.parametrize(
    ("written", "files", "shown"),
    [
        ("", ("model.py",), ("python", "", "model.py")),
        ("", ("model.pt",), ("pytorch", "pytorch_libtorch", "model.pt")),
        ("", ("model.pt2",), ("pytorch", "pytorch_libtorch", "model.pt2")),
        ("", ("model.onnx",), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ("", ("model.safetensors", "card.json"), ("nextact", "", "")),
        ('platform: "pytorch_libtorch"', (), ("pytorch", "pytorch_libtorch", "model.pt")),
        ('platform: "onnxruntime_onnx"', (), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('platform: "onnxruntime_onnx" backend: "python"', (), ("python", "onnxruntime_onnx", "model.py")),
        ('platform: "tensorflow_savedmodel"', ("model.py",), ("tensorflow", "tensorflow_savedmodel", "")),
        ('default_model_filename: "model.onnx"', (), ("onnxruntime", "onnxruntime_onnx", "model.onnx")),
        ('backend: "python" default_model_filename: "other.py"', (), ("python", "", "other.py")),
        ('backend: "nextact_image"', (), ("nextact_image", "", "")),
    ],
)
def test_the_backend_is_found_by_config_or_by_file(
    tmp_path: Path, written: str, files: tuple[str, ...], shown: tuple[str, str, str]
) -> None:
    for file in files:
        (tmp_path / file).write_text("")
    made = config(written)
    fill_backend(made, tmp_path)
    assert (made.backend, made.platform, made.default_model_filename) == shown


def test_a_model_of_no_known_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="Could not determine backend for model 'net' with no backend in model"):
        fill_backend(config('name: "net"'), tmp_path)


def test_each_field_that_is_passed_over_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    written = config("""
        name: "net"
        input [ { name: "IN" format: FORMAT_NCHW }, { name: "J" is_shape_tensor: true } ]
        optimization { eager_batching: true cuda { graphs: true } }
        model_operations { op_library_filename: "x.so" }
        model_repository_agents { agents [ { name: "checksum" } ] }
        cc_model_filenames { key: "7.5" value: "model.plan" }
        instance_group [ { count: 1 }, { passive: true profile: "0" secondary_devices { device_id: 1 } } ]
        batch_output [ { target_name: "OUT" } ]
        metric_tags { key: "a" value: "b" }
    """)
    with caplog.at_level(logging.WARNING):
        warn_of_unsupported(written)
    named = {field.path for field in unsupported_fields(written)}
    assert named == {
        "input.format",
        "input.is_shape_tensor",
        "optimization.eager_batching",
        "optimization.cuda",
        "model_operations",
        "model_repository_agents",
        "cc_model_filenames",
        "instance_group.passive",
        "instance_group.profile",
        "instance_group.secondary_devices",
        "batch_output",
        "metric_tags",
    }
    for path in named:
        assert any(f"model 'net': config field {path} is not supported" in line for line in caplog.messages)


def test_what_is_honoured_is_not_warned_of() -> None:
    assert unsupported_fields(config(f'name: "net" {MINIMAL} {LATEST} {ONE_CPU} dynamic_batching {{ }}')) == []


@pytest.mark.parametrize("field", UNSUPPORTED, ids=lambda field: field.path)
def test_the_table_names_fields_that_there_are(field: object) -> None:
    message = model_config_pb2.ModelConfig.DESCRIPTOR
    for name in field.path.split("."):  # type: ignore[attr-defined]
        message, found = None, message.fields_by_name[name]
        message = found.message_type
    assert field.reason  # type: ignore[attr-defined]
