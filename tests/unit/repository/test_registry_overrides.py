"""Loads that bring a configuration, or files, of their own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_models import WAIT_S, FakeBackend, ask, config_text, make_registry, states, write_model

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.repository.registry import ModelRegistry

CONFIG = json.dumps({"backend": "fake", "max_batch_size": 2})
POLL = "failed to poll from model repository"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def registry(tmp_path: Path, backend: FakeBackend) -> Iterator[ModelRegistry]:
    write_model(tmp_path, "net", config_text(), v1=5)
    made = make_registry(tmp_path, backend)
    made.start()
    yield made
    made.close()


def test_a_config_stands_in_for_the_file(backend: FakeBackend, registry: ModelRegistry) -> None:
    registry.load("net")
    registry.load("net", CONFIG)
    assert registry.get("net").spec.max_batch_size == 2
    assert registry.get("net").config.name == "net"
    registry.load("net", CONFIG)
    assert backend.loads("net") == [1, 1, 1]
    registry.load("net")
    assert registry.get("net").spec.max_batch_size == 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{not json", "Invalid config override"),
        ("", "Invalid config override"),
        ('{"nonsense": 1}', "nonsense"),
        (
            '{"name": "other", "backend": "fake"}',
            "unexpected directory name 'net' for model 'other', directory name must equal model name",
        ),
        ('{"backend": "fake", "max_batch_size": -1}', "'max_batch_size' must be non-negative value for net"),
    ],
)
def test_a_config_that_is_none_is_the_callers_mistake(registry: ModelRegistry, config: str, said: str) -> None:
    registry.load("net")
    with pytest.raises(InferError) as caught:
        registry.load("net", config)
    assert caught.value.code is ErrorCode.INVALID_ARG
    assert caught.value.message.startswith(f"failed to load 'net', {POLL}: ")
    assert said in caught.value.message
    assert ask(registry, "net").value() == 5


def test_files_stand_in_for_the_directory_until_the_model_goes(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry
) -> None:
    registry.load("net")
    registry.load("net", CONFIG, {"file:7/model.fake": b"9", "labels/l.txt": b"x"})
    assert registry.versions("net") == [7]
    assert ask(registry, "net").value() == 9
    [_, version] = backend.versions
    directory = version.context.model_dir
    assert tmp_path not in directory.parents
    assert (directory / "labels" / "l.txt").read_bytes() == b"x"
    assert directory.stat().st_mode & 0o077 == 0 or directory.parent.stat().st_mode & 0o077 == 0
    registry.load("net")
    assert ask(registry, "net").value() == 5
    assert version.closed.wait(WAIT_S)
    registry.close()
    assert not directory.parent.exists()


def test_files_make_a_model_that_is_not_in_the_repository(backend: FakeBackend, registry: ModelRegistry) -> None:
    registry.load("new", CONFIG, {"1/model.fake": b"3"})
    assert ask(registry, "new").value() == 3
    assert states(registry, "new") == {"1": "READY"}
    with pytest.raises(InferError, match=f"failed to load 'new', {POLL}"):
        registry.load("new")
    assert ask(registry, "new").value() == 3
    registry.unload("new")
    assert backend.versions[-1].closed.wait(WAIT_S)


@pytest.mark.parametrize("path", ["../../evil", "1/../../../evil", "/tmp/evil", "", "file:", "file:../evil", "a\0b"])
def test_paths_that_lead_out_are_refused(registry: ModelRegistry, path: str) -> None:
    with pytest.raises(InferError) as caught:
        registry.load("net", CONFIG, {"1/model.fake": b"1", path: b"evil"})
    assert caught.value.code is ErrorCode.INVALID_ARG
    assert "must stay within model directory" in caught.value.message
    assert not registry.is_ready("net")


def test_a_name_that_leads_out_is_no_model(registry: ModelRegistry) -> None:
    for name in ("../evil", "", "a/b", ".."):
        with pytest.raises(InferError) as caught:
            registry.load(name, CONFIG, {"1/model.fake": b"1"})
        assert caught.value.code is ErrorCode.NOT_FOUND


def test_files_need_a_config(registry: ModelRegistry) -> None:
    with pytest.raises(InferError, match="Load parameter 'config' must be specified for model file override") as caught:
        registry.load("net", None, {"1/model.fake": b"1"})
    assert caught.value.code is ErrorCode.INVALID_ARG
    assert caught.value.message.startswith(f"failed to load 'net', {POLL}")


def test_files_without_a_version_are_refused(backend: FakeBackend, registry: ModelRegistry) -> None:
    with pytest.raises(InferError, match="at least one version must be available under the version policy"):
        registry.load("net", CONFIG, {"x/model.fake": b"1"})


def test_files_of_a_load_that_fails_leave_nothing_behind(
    backend: FakeBackend, registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "private"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    registry.load("net")
    with pytest.raises(InferError, match="could not convert"):
        registry.load("net", CONFIG, {"1/model.fake": b"broken"})
    assert ask(registry, "net").value() == 5
    assert list(place.iterdir()) == []
