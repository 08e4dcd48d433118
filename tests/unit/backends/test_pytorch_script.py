"""TorchScript models."""

import logging
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensor_backend import CPU, config_of, floats, instance_of, loaded, request, rows, run
from torch_files import Dropped, Fails, Named, Pair, Same, Texts, Writes, WritesOwn, script

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferResponse
from nextact_server.inference.infer_spec import InstanceGroup, Placement
from nextact_server.inference.instance import StageTimes
from nextact_server.repository.backends.pytorch import PytorchBackend


def fp32(kind: str, name: str, dims: str) -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_FP32 dims: {dims} }}'


def pair(x: str = "x", y: str = "y", sum: str = "OUTPUT__0", total: str = "OUTPUT__1") -> str:
    outputs = fp32("output", sum, "[3]") + fp32("output", total, "[1]")
    return "max_batch_size: 32 " + fp32("input", x, "[4]") + fp32("input", y, "[3]") + outputs


ONE = "max_batch_size: 8 " + fp32("input", "x", "[-1]") + fp32("output", "o", "[-1]")


@pytest.fixture(scope="module")
def pair_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    return script(Pair(), tmp_path_factory.mktemp("pair") / "1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_a_batch_equals_its_requests_alone(pair_dir: Path, sizes: list[int]) -> None:
    instance = instance_of(PytorchBackend(), pair_dir, pair())
    requests = [rows(x=floats(n, 4, seed=n), y=floats(n, 3, seed=n + 9)) for n in sizes]
    for one, found in zip(requests, run(instance, *requests), strict=True):
        (alone,) = run(instance, one)
        for name in alone:
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        pair(),
        pair("y__1", "x__0").replace("[4]", "[ 9 ]").replace("[3]", "[4]", 1).replace("[ 9 ]", "[3]"),
        pair("first", "second", "one", "other"),
        pair("INPUT__0", "INPUT__1"),
    ],
    ids=["argument names", "indices, in another order", "order of the configuration", "indices"],
)
def test_inputs_and_outputs_are_found_by_triton_s_conventions(pair_dir: Path, text: str) -> None:
    config = config_of(text)
    x, y = floats(2, 4), floats(2, 3)
    by_width = {4: x, 3: y}
    inputs = {tensor.name: by_width[tensor.dims[0]] for tensor in config.input}
    (found,) = run(instance_of(PytorchBackend(), pair_dir, text), rows(**inputs))
    total, *_ = (found[tensor.name] for tensor in config.output if tensor.dims[0] == 1)
    np.testing.assert_allclose(total, x.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_dict_is_passed_and_returned_by_its_keys(tmp_path: Path) -> None:
    text = "max_batch_size: 8 " + fp32("input", "b", "[1]") + fp32("input", "a", "[2]")
    text += fp32("output", "more", "[1]") + fp32("output", "double", "[2]")
    instance = instance_of(PytorchBackend(), script(Named(), tmp_path / "1"), text)
    (found,) = run(instance, rows(a=np.ones((1, 2), np.float32), b=np.zeros((1, 1), np.float32)))
    assert {name: array.tolist() for name, array in found.items()} == {"double": [[2, 2]], "more": [[1]]}


def test_read_only_inputs_are_passed_without_a_copy_and_without_a_warning(tmp_path: Path) -> None:
    x = np.frombuffer(np.ones(4, np.float32).tobytes(), np.float32).reshape(2, 2)
    assert not x.flags.writeable
    instance = instance_of(PytorchBackend(), script(Same(), tmp_path / "1"), ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = run(instance, rows(x=x))
    assert np.shares_memory(found["o"], x)


def test_a_model_that_writes_to_its_input_leaves_the_caller_s_alone(tmp_path: Path) -> None:
    x = np.zeros((1, 2), np.float32)
    (found,) = run(instance_of(PytorchBackend(), script(Writes(), tmp_path / "1"), ONE), rows(x=x))
    assert found["o"].tolist() == [[1, 1]]
    assert x.tolist() == [[0, 0]]


def test_only_models_that_write_to_their_inputs_cost_a_copy(tmp_path: Path) -> None:
    from tensor_backend import spec_of

    from nextact_server.repository.backends.pytorch_options import TorchOptions
    from nextact_server.repository.backends.torch_script import ScriptModel, load_script

    for module, mutated in ((WritesOwn(), set()), (Writes(), {"x"})):
        directory = script(module, tmp_path / type(module).__name__)
        loaded_module = load_script(directory / "model.pt", "m", "cpu")
        assert ScriptModel(loaded_module, spec_of(config_of(ONE)), TorchOptions()).mutated == mutated


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2]], ml_dtypes.bfloat16),
        np.array([[1.5, -2]], np.float16),
        np.array([[True, False]]),
        np.array([[1, 65535]], np.uint16),
        np.array([[1, 2**63]], np.uint64),
        np.array([[-1, 2**31]], np.int64),
        np.zeros((1, 0), np.float32),
    ],
    ids=lambda array: str(array.dtype),
)
def test_every_datatype_of_numbers_goes_through_unchanged(tmp_path: Path, array: np.ndarray) -> None:  # type: ignore[type-arg]
    from nextact_server.inference.tensors import datatype_of

    text = ONE.replace("TYPE_FP32", datatype_of(array).config_name)
    (found,) = run(instance_of(PytorchBackend(), script(Same(), tmp_path / "1"), text), rows(x=array))
    assert found["o"].dtype == array.dtype
    assert found["o"].tolist() == array.tolist()


def test_a_list_of_strings_is_a_bytes_tensor_of_one_axis(tmp_path: Path) -> None:
    text = ONE.replace("TYPE_FP32", "TYPE_STRING").replace("max_batch_size: 8", "")
    directory = script(Texts(), tmp_path / "1")
    (found,) = run(instance_of(PytorchBackend(), directory, text), request(x=np.array([b"a", "é".encode()], object)))
    assert found["o"].tolist() == [b"a!", "é!".encode()]
    with pytest.raises(
        InferError, match="Triton only supports 1 dimensional List of String as input for 'x' for model"
    ):
        instance_of(PytorchBackend(), directory, ONE.replace("TYPE_FP32", "TYPE_STRING"))


def test_instances_of_a_device_share_the_weights_unless_told_not_to(pair_dir: Path) -> None:
    def modules(text: str) -> list[object]:
        version = loaded(PytorchBackend(), pair_dir, text)
        instances = [version.instance(CPU), version.instance(Placement("m_0_1", "cpu", InstanceGroup()))]
        return [instance._run.__self__._model for instance in instances]  # type: ignore[attr-defined]

    one, other = modules(pair())
    assert one is other
    apart = ' parameters { key: "ENABLE_WEIGHT_SHARING" value { string_value: "false" } }'
    one, other = modules(pair() + apart)
    assert one is not other


def test_a_model_saved_while_training_is_evaluated(tmp_path: Path) -> None:
    instance = instance_of(PytorchBackend(), script(Dropped().train(), tmp_path / "1"), ONE)
    (found,) = run(instance, rows(x=np.ones((1, 64), np.float32)))
    assert found["o"].tolist() == [[1] * 64]


def test_a_model_that_raises_is_told_in_triton_s_words_and_works_again(tmp_path: Path) -> None:
    instance = instance_of(PytorchBackend(), script(Fails(), tmp_path / "1"), ONE)
    with pytest.raises(InferError, match=r"(?s)PyTorch execute failure: .*negative") as failure:
        instance.execute([rows(x=-np.ones((1, 1), np.float32))], StageTimes())
    assert failure.value.code is ErrorCode.INTERNAL
    assert instance.retry_safe
    (result,) = instance.execute([rows(x=np.ones((1, 1), np.float32))], StageTimes())
    assert isinstance(result, InferResponse)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_thread_count_of_the_server_is_never_touched(pair_dir: Path, threads: int) -> None:
    before = torch.get_num_threads()
    text = pair() + ' parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "7" } }'
    run(instance_of(PytorchBackend(), pair_dir, text), rows(x=floats(1, 4), y=floats(1, 3)))
    assert torch.get_num_threads() == before


def test_parameters_are_honoured_or_named_in_a_warning(pair_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    def given(name: str, value: str) -> str:
        return f' parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'

    honoured = "".join(
        [given("INFERENCE_MODE", "false"), given("DISABLE_OPTIMIZED_EXECUTION", "true"), given("DISABLE_CUDNN", "1")]
    )
    with caplog.at_level(logging.WARNING):
        instance = instance_of(PytorchBackend(), pair_dir, pair() + honoured + given("ENABLE_JIT_EXECUTOR", "false"))
    assert [record.getMessage() for record in caplog.records if "ENABLE_JIT_EXECUTOR is ignored" in record.getMessage()]
    run(instance, rows(x=floats(1, 4), y=floats(1, 3)))
    with pytest.raises(InferError, match="parameter INFERENCE_MODE is 'maybe'"):
        instance_of(PytorchBackend(), pair_dir, pair() + given("INFERENCE_MODE", "maybe"))


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "1"
    directory.mkdir()
    for name in ("model.pt", "model.pt2"):
        path = directory / name
        path.write_bytes(b"junk")
        with pytest.raises(InferError, match="failed to load model 'm'") as failure:
            instance_of(PytorchBackend(), directory, ONE)
        assert str(path) in failure.value.message
        path.unlink()
    with pytest.raises(InferError, match="unable to find") as failure:
        instance_of(PytorchBackend(), directory, ONE)
    assert failure.value.code is ErrorCode.UNAVAILABLE


def test_the_configured_file_name_is_used(tmp_path: Path) -> None:
    directory = script(Same(), tmp_path / "1", "other.pt")
    (found,) = run(
        instance_of(PytorchBackend(), directory, 'default_model_filename: "other.pt" ' + ONE),
        rows(x=np.ones((1, 1), np.float32)),
    )
    assert found["o"].tolist() == [[1]]


def test_an_omitted_configuration_is_refused_with_what_forward_takes(pair_dir: Path) -> None:
    with pytest.raises(InferError) as failure:
        PytorchBackend().complete(config_of(), pair_dir)
    assert failure.value.code is ErrorCode.INVALID_ARG
    assert "must give input and output" in failure.value.message
    assert "forward(x: Tensor, y: Tensor)" in failure.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ONE, "configuration expects 1 inputs, model provides 2"),
        (pair("INPUT__0", "INPUT__7"), "input 'INPUT__7' refers to an argument index which doesn't exist"),
    ],
)
def test_a_configuration_that_does_not_fit_the_model_fails_the_load(pair_dir: Path, text: str, told: str) -> None:
    with pytest.raises(InferError) as failure:
        instance_of(PytorchBackend(), pair_dir, text)
    assert told in failure.value.message


def test_an_output_that_the_model_lacks_is_told_in_triton_s_words(pair_dir: Path) -> None:
    instance = instance_of(PytorchBackend(), pair_dir, pair(total="OUTPUT__5"))
    told = "The output OUTPUT__5 in the model configuration refers to an output index which doesn't exist. This model"
    with pytest.raises(InferError, match=told):
        run(instance, rows(x=floats(1, 4), y=floats(1, 3)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine")
def test_a_batch_on_cuda_equals_the_one_on_the_cpu(pair_dir: Path) -> None:
    version = loaded(PytorchBackend(), pair_dir, pair())
    on_cuda = version.instance(Placement("m_0_0", "cuda:0", InstanceGroup(kind="KIND_GPU")))
    for n in (3, 1, 5):
        one = rows(x=floats(n, 4), y=floats(n, 3))
        (expected,), (found,) = run(version.instance(CPU), one), run(on_cuda, one)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
