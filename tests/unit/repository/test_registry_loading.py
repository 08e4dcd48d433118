"""A model's life on request: load, reload, fail, unload."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.fake_models import (
    WAIT_S,
    FakeBackend,
    FakeInstance,
    FakeVersion,
    ask,
    config_text,
    make_registry,
    reason,
    states,
    write_model,
)

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.options import ControlMode, RegistryOptions
from nextact_server.repository.placement import gpu_count
from nextact_server.repository.registry import ModelRegistry

ALL = "version_policy { all { } }"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def registry(tmp_path: Path, backend: FakeBackend) -> Iterator[ModelRegistry]:
    made = make_registry(tmp_path, backend)
    made.start()
    yield made
    made.close()
    assert all(version.closed.is_set() for version in backend.versions)


def refused(error: pytest.ExceptionInfo[InferError]) -> tuple[ErrorCode, str]:
    return error.value.code, error.value.message


def test_a_loaded_model_answers(tmp_path: Path, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    registry.load("net")
    assert ask(registry, "net").value() == 5
    assert ask(registry, "net", "1").value() == 5
    assert registry.get("net").spec.name == "net"
    assert registry.versions("net") == [1]
    assert [served.spec.version for served in registry.served("net")] == [1]
    assert [(served.spec.name, served.spec.version) for served in registry.all()] == [("net", 1)]
    assert registry.is_ready("net")
    assert registry.is_ready("net", "1")
    assert states(registry, "net") == {"1": "READY"}


def test_versions_are_looked_up_as_triton_does(tmp_path: Path, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(ALL), v1=1, v2=2)
    write_model(tmp_path, "idle", config_text(), v1=1)
    registry.load("net")
    assert ask(registry, "net").value() == 2
    for text, version in (("1", 1), ("01", 1), (" 2", 2), ("1x", 1), ("1.5", 1), ("+2", 2)):
        assert registry.get("net", text).spec.version == version
    for name, version, code, message in (
        ("", "", ErrorCode.NOT_FOUND, "Request for unknown model: '' is not found"),
        ("nosuch", "", ErrorCode.NOT_FOUND, "Request for unknown model: 'nosuch' is not found"),
        ("nosuch", "1", ErrorCode.NOT_FOUND, "Request for unknown model: 'nosuch' is not found"),
        ("idle", "", ErrorCode.NOT_FOUND, "Request for unknown model: 'idle' is not found"),
        ("net", "9", ErrorCode.NOT_FOUND, "Request for unknown model: 'net' version 9 is not found"),
        ("net", "0", ErrorCode.NOT_FOUND, "Request for unknown model: 'net' version 0 is not found"),
        (
            "net",
            "abc",
            ErrorCode.INVALID_ARG,
            (
                "failed to get model version from specified version string 'abc' (details: stol), version should be an "
                "integral value > 0"
            ),
        ),
        (
            "net",
            "99999999999999999999",
            ErrorCode.INVALID_ARG,
            (
                "failed to get model version from specified version string '99999999999999999999' (details: stol), "
                "version should be an integral value > 0"
            ),
        ),
        (
            "net",
            "-1",
            ErrorCode.INVALID_ARG,
            "invalid model version specified '-1' , version should be an integral value > 0",
        ),
    ):
        with pytest.raises(InferError) as caught:
            registry.get(name, version)
        assert refused(caught) == (code, message)
    assert not registry.is_ready("net", "9")
    assert not registry.is_ready("nosuch")
    with pytest.raises(InferError, match="stol"):
        registry.is_ready("net", "abc")


def test_a_failed_load_keeps_the_old_version_serving_and_says_why(tmp_path: Path, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    registry.load("net")
    write_model(tmp_path, "net", v2="broken")
    with pytest.raises(InferError) as caught:
        registry.load("net")
    assert refused(caught) == (
        ErrorCode.INVALID_ARG,
        (
            "load failed for model 'net': version 2 is at UNAVAILABLE state: Internal: ValueError: could not convert "
            "string to float: 'broken';\n"
        ),
    )
    assert ask(registry, "net").value() == 5
    assert states(registry, "net") == {"1": "READY", "2": "UNAVAILABLE"}
    assert reason(registry, "net", "2") == "Internal: ValueError: could not convert string to float: 'broken'"
    with pytest.raises(InferError) as caught:
        registry.get("net", "2")
    assert refused(caught) == (
        ErrorCode.UNAVAILABLE,
        "Request for unknown model: 'net' version 2 is not at ready state",
    )
    write_model(tmp_path, "net", v2=6)
    registry.load("net")
    assert ask(registry, "net").value() == 6
    assert reason(registry, "net", "2") == ""


def test_a_failed_reload_of_the_same_version_is_said_beside_ready(tmp_path: Path, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    registry.load("net")
    write_model(tmp_path, "net", v1="broken")
    with pytest.raises(InferError, match="load failed for model 'net'"):
        registry.load("net")
    assert ask(registry, "net").value() == 5
    assert states(registry, "net") == {"1": "READY"}
    assert "could not convert" in reason(registry, "net", "1")


def test_a_broken_config_keeps_the_old_version_and_names_field_and_line(
    tmp_path: Path, registry: ModelRegistry
) -> None:
    folder = write_model(tmp_path, "net", config_text(), v1=5)
    registry.load("net")
    (folder / "config.pbtxt").write_text('backend: "fake"\nnonsense: 3\n')
    with pytest.raises(InferError) as caught:
        registry.load("net")
    assert caught.value.code is ErrorCode.INTERNAL
    assert caught.value.message.startswith("failed to load 'net', failed to poll from model repository: ")
    for said in (caught.value.message, reason(registry, "net", "1")):
        assert f"{folder}/config.pbtxt:2:" in said
        assert "nonsense" in said
    assert ask(registry, "net").value() == 5


def test_a_model_that_never_loaded_says_why(tmp_path: Path, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(backend="nosuch"))
    write_model(tmp_path, "torn", "input [ {")
    assert states(registry, "net") == {"": ""}
    with pytest.raises(InferError, match="unable to find backend library for backend 'nosuch', try specifying"):
        registry.load("net")
    assert states(registry, "net") == {"1": "UNAVAILABLE"}
    with pytest.raises(InferError) as caught:
        registry.get("net")
    assert refused(caught) == (ErrorCode.NOT_FOUND, "Request for unknown model: 'net' has no available versions")
    with pytest.raises(InferError, match="failed to load 'torn', failed to poll"):
        registry.load("torn")
    assert states(registry, "torn") == {"": "UNAVAILABLE"}
    assert "config.pbtxt" in reason(registry, "torn", "")


def test_what_is_not_in_the_repository_is_not_found(tmp_path: Path, registry: ModelRegistry) -> None:
    write_model(tmp_path / "outside", "net", config_text())
    for name in ("nosuch", "", "..", "outside/net", ".hidden", "x" * 300, "é" * 200):
        with pytest.raises(InferError) as caught:
            registry.load(name)
        assert refused(caught) == (
            ErrorCode.NOT_FOUND,
            f"failed to load '{name}', failed to poll from model repository",
        )
        registry.unload(name)
    assert registry.index() == []


def test_all_versions_take_over_together_or_none(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(ALL), v1=1, v2="broken", v3=3)
    with pytest.raises(InferError, match="version 2 is at UNAVAILABLE state"):
        registry.load("net")
    assert not registry.is_ready("net")
    assert states(registry, "net") == {"1": "UNAVAILABLE", "2": "UNAVAILABLE", "3": "UNAVAILABLE"}
    assert all(version.closed.wait(WAIT_S) for version in backend.versions)


def test_only_what_changed_is_loaded_anew(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    folder = write_model(tmp_path, "net", config_text(ALL), v1=1, v2=2)
    registry.load("net")
    first = registry.get("net", "1")
    registry.load("net")
    assert backend.loads("net") == [1, 2]
    write_model(tmp_path, "net", v2=22)
    (folder / "1" / "__pycache__").mkdir()
    (folder / "1" / "__pycache__" / "model.pyc").write_text("made by Python")
    registry.load("net")
    assert backend.loads("net") == [1, 2, 2]
    assert registry.get("net", "1") is first
    assert ask(registry, "net", "2").value() == 22
    (folder / "config.pbtxt").write_text(config_text(ALL, max_batch_size=2))
    registry.load("net")
    assert backend.loads("net") == [1, 2, 2, 1, 2]
    (folder / "labels.txt").write_text("one\n")
    registry.load("net")
    assert backend.loads("net") == [1, 2, 2, 1, 2, 1, 2]


def test_a_version_that_is_gone_is_unloaded(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=1)
    registry.load("net")
    write_model(tmp_path, "net", v2=2)
    registry.load("net")
    assert backend.versions[0].closed.wait(WAIT_S)
    assert registry.versions("net") == [2]
    assert states(registry, "net")["2"] == "READY"


def test_without_a_version_nothing_is_loaded(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.pbtxt").write_text(config_text())
    (folder / "one").mkdir()
    with pytest.raises(InferError, match="at least one version must be available under the version policy of model"):
        registry.load("net")


def test_unload_waits_for_what_is_in_flight(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    registry.load("net")
    running, go_on = threading.Event(), threading.Event()

    def executed(instance: FakeInstance, requests: Sequence[InferRequest]) -> None:
        running.set()
        assert go_on.wait(WAIT_S)

    backend.executed = executed
    answer = ask(registry, "net")
    assert running.wait(WAIT_S)
    registry.unload("net")
    assert states(registry, "net") == {"1": "UNLOADING"}
    assert not backend.versions[0].closed.is_set()
    with pytest.raises(InferError, match="'net' has no available versions"):
        registry.get("net")
    go_on.set()
    assert answer.value() == 5
    assert backend.versions[0].closed.wait(WAIT_S)
    registry.unload("net")
    registry.load("net")
    assert registry.is_ready("net")


def test_an_unloaded_model_says_so(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    registry.load("net")
    registry.unload("net")
    registry.close()
    assert states(registry, "net") == {"1": "UNAVAILABLE"}
    assert reason(registry, "net", "1") == "unloaded"
    with pytest.raises(InferError, match="shutting down"):
        registry.load("net")


def test_a_load_that_blocks_blocks_no_one_else(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    write_model(tmp_path, "slow", config_text(), v1=1)
    write_model(tmp_path, "quick", config_text(), v1=2)
    entered, go_on = threading.Event(), threading.Event()

    def loading(context: ModelContext) -> None:
        if context.spec.name == "slow":
            entered.set()
            assert go_on.wait(WAIT_S)

    backend.loading = loading
    thread = threading.Thread(target=registry.load, args=("slow",))
    thread.start()
    assert entered.wait(WAIT_S)
    assert states(registry, "slow") == {"1": "LOADING"}
    with pytest.raises(InferError, match="'slow' has no available versions"):
        registry.get("slow")
    registry.load("quick")
    assert ask(registry, "quick").value() == 2
    go_on.set()
    thread.join(WAIT_S)
    assert ask(registry, "slow").value() == 1


def test_one_model_is_loaded_once_at_a_time(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    write_model(tmp_path, "net", config_text(), v1=1)
    inside = threading.Semaphore(1)

    def loading(context: ModelContext) -> None:
        assert inside.acquire(blocking=False), "two loads of one model at once"
        inside.release()

    backend.loading = loading
    threads = [threading.Thread(target=registry.load, args=("net",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert backend.loads("net") == [1]


def test_every_instance_is_placed_and_freed(tmp_path: Path, backend: FakeBackend, registry: ModelRegistry) -> None:
    group = 'instance_group [ { count: 2 kind: KIND_CPU }, { name: "own" kind: KIND_MODEL } ]'
    write_model(tmp_path, "net", config_text(group), v1=1)
    registry.load("net")
    [version] = backend.versions
    assert [(one.placement.name, one.placement.device) for one in version.instances] == [
        ("net_0_0", "cpu"),
        ("net_0_1", "cpu"),
        ("own_0", "cpu"),
    ]
    registry.unload("net")
    assert version.closed.wait(WAIT_S)


def test_a_model_without_a_group_has_one_instance_named_as_in_triton(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry
) -> None:
    write_model(tmp_path, "net", config_text("instance_group [ ]"), v1=1)
    registry.load("net")
    assert [one.placement.name for one in backend.versions[0].instances] == ["net_0"]


def test_a_gpu_that_is_not_there_fails_the_load(tmp_path: Path, registry: ModelRegistry) -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    write_model(tmp_path, "net", config_text("instance_group [ { kind: KIND_GPU } ]"), v1=1)
    with pytest.raises(InferError, match="instance group net_0 of model net has kind KIND_GPU but no GPUs are avail"):
        registry.load("net")


def test_an_instance_that_cannot_be_made_frees_the_others(
    tmp_path: Path, backend: FakeBackend, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "net", config_text("instance_group [ { count: 3 } ]"), v1=1)
    make = FakeVersion.instance

    def third_fails(self: FakeVersion, placement: object) -> FakeInstance:
        if len(self.instances) == 2:
            raise MemoryError("no room")
        return make(self, placement)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeVersion, "instance", third_fails)
    with pytest.raises(InferError, match="Internal: MemoryError: no room"):
        registry.load("net")
    assert backend.versions[0].closed.is_set()


def test_a_model_in_two_repositories_is_refused(tmp_path: Path, backend: FakeBackend) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    write_model(roots[0], "net", config_text(), v1=1)
    write_model(roots[1], "net", config_text(), v1=2)
    write_model(roots[1], "other", config_text(), v1=3)
    registry = ModelRegistry(roots, {"fake": backend}, RegistryOptions(ControlMode.EXPLICIT))
    registry.load("other")
    assert ask(registry, "other").value() == 3
    with pytest.raises(InferError, match="not unique across all model repositories"):
        registry.load("net")
    assert {line.name for line in registry.index()} == {"net", "other"}
    registry.close()
