"""ONNX models."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxruntime", reason="the extra nextact-server[onnx] is not installed")
pytest.importorskip("onnx", reason="onnx, which makes the models of these tests, is not installed")

from onnx_files import BFLOAT16, FLOAT, INT64, STRING, pair, same
from tensor_backend import CPU, config_of, floats, instance_of, loaded, request, rows, run

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import InstanceGroup, Placement
from nextact_server.repository.backends.onnxruntime import OnnxRuntimeBackend


@pytest.fixture(scope="module")
def pair_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pair(tmp_path_factory.mktemp("pair") / "1")


def backend() -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(threads=1)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_a_batch_equals_its_requests_alone(pair_dir: Path, sizes: list[int]) -> None:
    instance = instance_of(backend(), pair_dir, "max_batch_size: 32")
    requests = [rows(x=floats(n, 4, seed=n), y=floats(n, 4, seed=n + 9)) for n in sizes]
    for one, found in zip(requests, run(instance, *requests), strict=True):
        (alone,) = run(instance, one)
        np.testing.assert_allclose(alone["s"], one.inputs["x"] + one.inputs["y"], rtol=1e-6)
        for name in ("s", "t"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-5)


def test_an_omitted_configuration_is_read_from_the_model(pair_dir: Path, tmp_path: Path) -> None:
    config = backend().complete(config_of(), pair_dir)
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("x", 11, [4]), ("y", 11, [4])]
    assert [(one.name, list(one.dims)) for one in config.output] == [("s", [4]), ("t", [4])]
    assert OnnxRuntimeBackend(default_max_batch_size=0).complete(config_of(), pair_dir).max_batch_size == 0
    fixed = backend().complete(config_of(), pair(tmp_path / "1", 2))
    assert fixed.max_batch_size == 0
    assert not fixed.HasField("dynamic_batching")
    assert list(fixed.input[0].dims) == [2, 4]


def test_what_the_configuration_says_is_kept(pair_dir: Path) -> None:
    config = backend().complete(
        config_of('max_batch_size: 1 output { name: "t" data_type: TYPE_FP32 dims: [4] }'), pair_dir
    )
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert [one.name for one in config.output] == ["t"]
    assert [one.name for one in config.input] == ["x", "y"]


def test_only_configured_outputs_are_computed(pair_dir: Path) -> None:
    text = 'max_batch_size: 4 output { name: "t" data_type: TYPE_FP32 dims: [4] }'
    (found,) = run(instance_of(backend(), pair_dir, text), rows(x=floats(1, 4), y=floats(1, 4)))
    assert list(found) == ["t"]


def test_strings_go_in_and_out_as_utf8(tmp_path: Path) -> None:
    directory = same(tmp_path / "1", STRING, ["batch", 2])
    instance = instance_of(backend(), directory)
    texts = np.array([[b"plain", "ünï".encode()]], object)
    (found,) = run(instance, rows(x=texts))
    assert found["o"].tolist() == texts.tolist()
    with pytest.raises(InferError, match="input 'x' holds a string that is not UTF-8") as failure:
        run(instance, rows(x=np.array([[b"\xff", b""]], object)))
    assert failure.value.code is ErrorCode.INVALID_ARG


def test_read_only_inputs_are_taken(tmp_path: Path) -> None:
    x = np.frombuffer(np.ones(4, np.int64).tobytes(), np.int64).reshape(2, 2)
    (found,) = run(instance_of(backend(), same(tmp_path / "1", INT64, ["batch", 2])), rows(x=x))
    assert found["o"].tolist() == [[1, 1], [1, 1]]


def test_a_scalar_is_one_element_to_the_world(tmp_path: Path) -> None:
    instance = instance_of(backend(), same(tmp_path / "1", FLOAT, []))
    (found,) = run(instance, request(x=np.array([3], np.float32)))
    assert found["o"].tolist() == [3]


def test_a_model_that_fails_is_told_and_works_again(pair_dir: Path) -> None:
    text = "max_batch_size: 8 " + "".join(f'input {{ name: "{n}" data_type: TYPE_FP32 dims: [-1] }}' for n in "xy")
    instance = instance_of(backend(), pair_dir, text)
    with pytest.raises(InferError, match="onnx runtime error") as failure:
        run(instance, rows(x=floats(1, 3), y=floats(1, 3)))
    assert failure.value.code is ErrorCode.INTERNAL
    assert run(instance, rows(x=floats(1, 4), y=floats(1, 4)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'input { name: "z" data_type: TYPE_FP32 dims: [4] } input { name: "y" data_type: TYPE_FP32 dims: [4] }',
            "unexpected inference input 'z', allowed inputs are: x, y",
        ),
        ('input { name: "x" data_type: TYPE_FP32 dims: [4] }', "configuration expects 1 inputs, model provides 2"),
        (
            'output { name: "s" data_type: TYPE_FP16 dims: [4] }',
            "configuration expects datatype TYPE_FP16 for output 's', model provides TYPE_FP32",
        ),
        (
            'output { name: "s" data_type: TYPE_FP32 dims: [5] }',
            "the model expects 2 dimensions (shape [-1,4]) but the model configuration specifies 2 dimensions (shape",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_fails_the_load(pair_dir: Path, text: str, told: str) -> None:
    with pytest.raises(InferError) as failure:
        instance_of(backend(), pair_dir, "max_batch_size: 4 " + text)
    assert told in failure.value.message


def test_a_model_of_fixed_size_cannot_be_told_to_batch(tmp_path: Path) -> None:
    with pytest.raises(InferError, match="does not support batching while non-zero max_batch_size is specified"):
        instance_of(backend(), pair(tmp_path / "1", 2), "max_batch_size: 4")


def test_a_datatype_that_cannot_be_passed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InferError, match=r"unsupported datatype tensor\(bfloat16\) for input 'x' for model 'm'"):
        instance_of(backend(), same(tmp_path / "1", BFLOAT16, ["batch", 2]))


def test_a_corrupt_or_missing_file_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "1"
    directory.mkdir()
    with pytest.raises(InferError, match="unable to find"):
        loaded(backend(), directory)
    (directory / "model.onnx").write_bytes(b"junk")
    with pytest.raises(InferError, match="failed to load model 'm'") as failure:
        loaded(backend(), directory)
    assert str(directory / "model.onnx") in failure.value.message


def test_instances_share_a_session_and_threads_are_as_configured(pair_dir: Path) -> None:
    text = 'parameters { key: "intra_op_thread_count" value { string_value: "2" } }'
    version = loaded(backend(), pair_dir, text)
    one, other = (version.instance(CPU)._run.__self__._session for _ in range(2))  # type: ignore[attr-defined]
    assert one is other
    assert one.get_session_options().intra_op_num_threads == 2
    alone = loaded(backend(), pair_dir).instance(CPU)._run.__self__._session  # type: ignore[attr-defined]
    assert alone.get_session_options().intra_op_num_threads == 1
    with pytest.raises(InferError, match="parameter intra_op_thread_count is 'all'"):
        loaded(backend(), pair_dir, text.replace('"2"', '"all"'))


def test_a_gpu_that_this_onnx_runtime_cannot_use_is_told(pair_dir: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(InferError, match="this ONNX Runtime has no CUDA; install onnxruntime-gpu") as failure:
        loaded(backend(), pair_dir).instance(Placement("m_0_0", "cuda:0", InstanceGroup()))
    assert failure.value.code is ErrorCode.UNAVAILABLE


def test_without_the_extra_a_load_says_how_to_get_it(pair_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InferError, match=r"pip install 'nextact-server\[onnx\]'"):
        loaded(backend(), pair_dir)
