"""torch.export models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tensor_backend import CPU, config_of, floats, instance_of, loaded, rows, run
from torch.export import Dim
from torch_files import Named, Pair, Writes, export

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_spec import InstanceGroup, Placement
from nextact_server.repository.backends.pytorch import PytorchBackend


@pytest.fixture(scope="module")
def pair_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    batch = Dim("batch", max=16)
    shapes = {"x": {0: batch}, "y": {0: batch}}
    return export(Pair(), tmp_path_factory.mktemp("pair") / "1", (torch.randn(2, 4), torch.randn(2, 3)), shapes)


def test_an_omitted_configuration_is_read_from_the_program(pair_dir: Path) -> None:
    config = PytorchBackend(default_max_batch_size=64).complete(config_of(), pair_dir)
    assert config.max_batch_size == 16
    assert config.HasField("dynamic_batching")
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("x", 11, [4]), ("y", 11, [3])]
    assert [(one.name, list(one.dims)) for one in config.output] == [("OUTPUT__0", [3]), ("OUTPUT__1", [1])]
    assert PytorchBackend().complete(config_of(), pair_dir).max_batch_size == 4


def test_what_the_configuration_says_is_kept(pair_dir: Path) -> None:
    outputs = 'output { name: "A__1" data_type: TYPE_FP32 dims: [1] }'
    given = config_of(f"max_batch_size: 7 sequence_batching {{}} {outputs}")
    config = PytorchBackend().complete(given, pair_dir)
    assert config.max_batch_size == 7
    assert not config.HasField("dynamic_batching")
    assert [one.name for one in config.output] == ["A__1"]
    assert [one.name for one in config.input] == ["x", "y"]
    assert not given.input


def test_a_batch_equals_its_requests_alone(pair_dir: Path) -> None:
    instance = instance_of(PytorchBackend(), pair_dir)
    requests = [rows(x=floats(n, 4, seed=n), y=floats(n, 3, seed=n)) for n in (1, 3, 2)]
    for one, found in zip(requests, run(instance, *requests), strict=True):
        (alone,) = run(instance, one)
        for name in alone:
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-5)


def test_it_equals_the_module_it_was_exported_from(pair_dir: Path) -> None:
    torch.manual_seed(1)
    module = Pair().eval()
    x, y = floats(3, 4), floats(3, 3)
    (found,) = run(instance_of(PytorchBackend(), pair_dir), rows(x=x, y=y))
    with torch.no_grad():
        expected = module(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(found["OUTPUT__0"], expected[0].numpy(), rtol=1e-5, atol=1e-5)


def test_a_dict_is_named_by_its_keys(tmp_path: Path) -> None:
    arguments = ({"a": torch.ones(2, 2), "b": torch.ones(2, 1)},)
    directory = export(Named(), tmp_path / "1", arguments, ({"a": {0: Dim.AUTO}, "b": {0: Dim.AUTO}},))
    config = PytorchBackend().complete(config_of(), directory)
    assert [one.name for one in config.input] == ["a", "b"]
    assert [one.name for one in config.output] == ["double", "more"]
    (found,) = run(
        instance_of(PytorchBackend(), directory), rows(b=np.zeros((1, 1), np.float32), a=np.ones((1, 2), np.float32))
    )
    assert {name: array.tolist() for name, array in found.items()} == {"double": [[2, 2]], "more": [[1]]}


def test_a_program_of_fixed_shape_does_not_batch(tmp_path: Path) -> None:
    directory = export(Pair(), tmp_path / "1", (torch.randn(2, 4), torch.randn(2, 3)), None)
    config = PytorchBackend().complete(config_of(), directory)
    assert config.max_batch_size == 0
    assert [list(one.dims) for one in config.input] == [[2, 4], [2, 3]]
    with pytest.raises(InferError, match="does not support batching while non-zero max_batch_size is specified"):
        PytorchBackend().complete(config_of("max_batch_size: 4"), directory)


def test_a_program_that_writes_to_its_input_leaves_the_caller_s_alone(tmp_path: Path) -> None:
    directory = export(Writes(), tmp_path / "1", (torch.zeros(2, 2),), ({0: Dim.AUTO},))
    x = np.zeros((1, 2), np.float32)
    (found,) = run(instance_of(PytorchBackend(), directory), rows(x=x))
    assert found["OUTPUT__0"].tolist() == [[1, 1]]
    assert x.tolist() == [[0, 0]]


def test_a_batch_beyond_the_program_s_own_bound_is_its_failure_and_not_the_server_s(pair_dir: Path) -> None:
    instance = instance_of(PytorchBackend(), pair_dir, "max_batch_size: 64")
    with pytest.raises(InferError, match="PyTorch execute failure") as failure:
        run(instance, rows(x=floats(17, 4), y=floats(17, 3)))
    assert failure.value.code is ErrorCode.INTERNAL


def test_names_that_are_no_arguments_of_the_program_fail_the_load(pair_dir: Path) -> None:
    text = "max_batch_size: 4 " + "".join(
        f'input {{ name: "{name}" data_type: TYPE_FP32 dims: [4] }}' for name in ("IN__0", "IN__3")
    )
    with pytest.raises(InferError, match="IN__0, IN__3 are not the arguments x, y"):
        instance_of(PytorchBackend(), pair_dir, text)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine")
def test_a_program_on_cuda_equals_the_one_on_the_cpu(pair_dir: Path) -> None:
    version = loaded(PytorchBackend(), pair_dir)
    on_cuda = version.instance(Placement("m_0_0", "cuda:0", InstanceGroup(kind="KIND_GPU")))
    one = rows(x=floats(3, 4), y=floats(3, 3))
    (expected,), (found,) = run(version.instance(CPU), one), run(on_cuda, one)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
