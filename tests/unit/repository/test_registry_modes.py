"""Control modes none, poll and explicit, and models that are pinned."""

import queue
import shutil
import threading
from pathlib import Path

import pytest
from support.fake_models import (
    WAIT_S,
    FakeBackend,
    ask,
    config_text,
    ensemble_text,
    make_registry,
    reason,
    states,
    write_model,
)

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.errors import RepositoryError
from nextact_server.repository.options import ControlMode, RegistryOptions, resource_limits
from nextact_server.repository.registry import ModelRegistry


def settle(registry: ModelRegistry) -> None:
    """Look at the repository once, and wait for what follows."""
    for begun in registry.watch.look():
        begun.result(WAIT_S)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


def test_mode_none_loads_everything_at_the_start(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "a", config_text(), v1=1)
    write_model(tmp_path, "b", config_text(), v1=2)
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes").mkdir()
    registry = make_registry(tmp_path, backend, "none")
    registry.start()
    assert [served.spec.name for served in registry.all()] == ["a", "b"]
    assert [tuple(line) for line in registry.index()] == [("a", "1", "READY", ""), ("b", "1", "READY", "")]
    registry.close()


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_only_mode_explicit_loads_on_request(tmp_path: Path, backend: FakeBackend, mode: str) -> None:
    write_model(tmp_path, "a", config_text(), v1=1)
    registry = make_registry(tmp_path, backend, mode, poll_wait=lambda seconds: True)
    registry.start()
    for call in (registry.load, registry.unload):
        for name in ("a", "nosuch"):
            with pytest.raises(InferError) as caught:
                call(name)
            assert caught.value.code is ErrorCode.UNAVAILABLE
            assert caught.value.message == "explicit model load / unload is not allowed if polling is enabled"
    registry.close()


def test_mode_explicit_loads_what_it_is_told_at_the_start(tmp_path: Path, backend: FakeBackend) -> None:
    for name in ("a", "b", "c"):
        write_model(tmp_path, name, config_text(), v1=1)
    registry = make_registry(tmp_path, backend, startup_models=("b",), pinned=frozenset({"c"}))
    registry.start()
    assert [served.spec.name for served in registry.all()] == ["b", "c"]
    assert states(registry, "a") == {"": ""}
    assert [line.name for line in registry.index(ready_only=True)] == ["b", "c"]
    registry.close()


def test_a_star_loads_all_and_stands_alone(tmp_path: Path, backend: FakeBackend) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, config_text(), v1=1)
    registry = make_registry(tmp_path, backend, startup_models=("*",))
    registry.start()
    assert len(registry.all()) == 2
    registry.close()
    with pytest.raises(InferError, match="must be the ONLY startup model"):
        make_registry(tmp_path, backend, startup_models=("*", "a"))


def test_a_model_that_does_not_load_ends_the_start_unless_told_otherwise(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "good", config_text(), v1=1)
    write_model(tmp_path, "bad", config_text(), v1="broken")
    registry = make_registry(tmp_path, backend, "none")
    with pytest.raises(InferError, match=r"failed to load all models: load failed for model 'bad'.*could not convert"):
        registry.start()
    registry.close()
    registry = make_registry(tmp_path, backend, "none", exit_on_error=False)
    registry.start()
    assert ask(registry, "good").value() == 1
    assert "could not convert" in reason(registry, "bad", "1")
    registry.close()


def test_a_pinned_model_must_load_and_is_left_alone(tmp_path: Path, backend: FakeBackend) -> None:
    folder = write_model(tmp_path, "own", config_text(), v1="broken")
    options = {"pinned": frozenset({"own"}), "exit_on_error": False}
    registry = make_registry(tmp_path, backend, **options)
    with pytest.raises(InferError, match="load failed for model 'own'"):
        registry.start()
    registry.close()
    (folder / "1" / "model.fake").write_text("7")
    registry = make_registry(tmp_path, backend, **options)
    registry.start()
    for call in (registry.load, registry.unload):
        with pytest.raises(InferError, match="model 'own' is served for the life of the server") as caught:
            call("own")
        assert caught.value.code is ErrorCode.UNSUPPORTED
    assert ask(registry, "own").value() == 7
    registry.close()


def test_models_are_loaded_side_by_side(tmp_path: Path, backend: FakeBackend) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, name, config_text(), v1=1)
    both = threading.Barrier(2)

    def loading(context: ModelContext) -> None:
        both.wait(WAIT_S)

    backend.loading = loading
    registry = make_registry(tmp_path, backend, "none")
    registry.start()
    assert len(registry.all()) == 2
    registry.close()


def test_polling_finds_what_is_new_changed_and_gone(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "a", config_text(), v1=1)
    write_model(tmp_path, "b", config_text(), v1=2)
    registry = make_registry(tmp_path, backend, "poll", poll_wait=lambda seconds: True)
    registry.start()
    settle(registry)
    assert backend.loads("a") == [1]
    write_model(tmp_path, "a", v2=10)
    write_model(tmp_path, "c", config_text(), v1=3)
    shutil.rmtree(tmp_path / "b")
    settle(registry)
    assert ask(registry, "a").value() == 10
    assert ask(registry, "c").value() == 3
    assert not registry.is_ready("b")
    assert states(registry, "b") == {}
    shutil.rmtree(tmp_path / "a" / "2")
    settle(registry)
    assert ask(registry, "a").value() == 1
    write_model(tmp_path, "b", config_text(), v1=20)
    settle(registry)
    assert ask(registry, "b").value() == 20
    registry.close()


def test_a_half_written_version_does_not_take_the_old_down(tmp_path: Path, backend: FakeBackend) -> None:
    folder = write_model(tmp_path, "a", config_text(), v1=1)
    registry = make_registry(tmp_path, backend, "poll", poll_wait=lambda seconds: True)
    registry.start()
    (folder / "2").mkdir()
    settle(registry)
    assert ask(registry, "a").value() == 1
    assert "No such file" in reason(registry, "a", "2")
    (folder / "2" / "model.fake").write_text("")
    settle(registry)
    assert ask(registry, "a").value() == 1
    assert "cut off" in reason(registry, "a", "2")
    (folder / "2" / "model.fake").write_text("2")
    settle(registry)
    assert ask(registry, "a").value() == 2
    (folder / "config.pbtxt").write_text('backend: "fa')
    settle(registry)
    assert ask(registry, "a").value() == 2
    assert "config.pbtxt" in reason(registry, "a", "2")
    registry.close()


def test_what_failed_is_tried_again_only_when_it_changes(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "a", config_text(), v1="broken")
    tries: list[str] = []
    backend.loading = lambda context: tries.append(context.spec.name)
    registry = make_registry(tmp_path, backend, "poll", exit_on_error=False, poll_wait=lambda seconds: True)
    registry.start()
    settle(registry)
    settle(registry)
    assert tries == ["a"]
    write_model(tmp_path, "a", v1=5)
    settle(registry)
    assert tries == ["a", "a"]
    assert ask(registry, "a").value() == 5
    registry.close()


def test_a_model_that_still_loads_holds_up_no_other_look(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "a", config_text(), v1=1)
    registry = make_registry(tmp_path, backend, "poll", poll_wait=lambda seconds: True)
    registry.start()
    entered, go_on = threading.Event(), threading.Event()

    def loading(context: ModelContext) -> None:
        if context.spec.name == "slow":
            entered.set()
            assert go_on.wait(WAIT_S)

    backend.loading = loading
    write_model(tmp_path, "slow", config_text(), v1=1)
    [slow] = registry.watch.look()
    assert entered.wait(WAIT_S)
    write_model(tmp_path, "a", v2=2)
    write_model(tmp_path, "slow", v2=22)
    settle(registry)
    assert ask(registry, "a").value() == 2
    go_on.set()
    slow.result(WAIT_S)
    settle(registry)
    assert ask(registry, "slow").value() == 22
    registry.close()


def test_a_repository_that_is_away_takes_no_model_down(tmp_path: Path, backend: FakeBackend) -> None:
    root = tmp_path / "models"
    write_model(root, "a", config_text(), v1=1)
    registry = make_registry(root, backend, "poll", poll_wait=lambda seconds: True)
    registry.start()
    root.rename(tmp_path / "elsewhere")
    settle(registry)
    assert ask(registry, "a").value() == 1
    assert states(registry, "a") == {"1": "READY"}
    registry.close()
    with pytest.raises(RepositoryError, match="model_repository says where"):
        make_registry(root, backend, "poll").start()


def test_polling_leaves_pinned_models_alone(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "own", config_text(), v1=1)
    registry = make_registry(tmp_path, backend, "poll", pinned=frozenset({"own"}), poll_wait=lambda seconds: True)
    registry.start()
    write_model(tmp_path, "own", v2=2)
    settle(registry)
    shutil.rmtree(tmp_path / "own")
    settle(registry)
    assert ask(registry, "own").value() == 1
    registry.close()


def test_polling_brings_an_ensemble_back_with_its_model(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "net", config_text(), v1=1)
    write_model(tmp_path, "ens", ensemble_text("net"))
    registry = make_registry(tmp_path, backend, "poll", poll_wait=lambda seconds: True)
    registry.start()
    (tmp_path / "net").rename(tmp_path.parent / f"{tmp_path.name}-away")
    settle(registry)
    assert states(registry, "ens") == {"1": "UNAVAILABLE"}
    assert states(registry, "net") == {}
    (tmp_path.parent / f"{tmp_path.name}-away").rename(tmp_path / "net")
    settle(registry)
    assert ask(registry, "ens").value() == 1
    registry.close()


def test_the_watch_looks_each_time_its_wait_ends(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "a", config_text(), v1=1)
    waits: queue.Queue[float] = queue.Queue()
    turns: queue.Queue[bool] = queue.Queue()
    loaded = threading.Event()

    def wait(seconds: float) -> bool:
        waits.put(seconds)
        return turns.get(timeout=WAIT_S)

    registry = make_registry(tmp_path, backend, "poll", poll_seconds=7.0, poll_wait=wait)
    registry.start()
    assert waits.get(timeout=WAIT_S) == 7.0
    backend.loading = lambda context: loaded.set()
    write_model(tmp_path, "b", config_text(), v1=1)
    turns.put(False)
    assert waits.get(timeout=WAIT_S) == 7.0
    assert loaded.wait(WAIT_S)
    turns.put(True)
    registry.close()


def test_limits_of_resources_are_read_as_triton_writes_them() -> None:
    assert resource_limits(["R:4", "G:2:0"]) == {"R": 4, "G:0": 2}
    for text in ("R", "R:x", ":3", "R:1:2:3", "R:-1"):
        with pytest.raises(InferError, match="rate_limit_resources"):
            resource_limits([text])


def test_options_have_tritons_defaults() -> None:
    options = RegistryOptions()
    assert (options.control_mode, options.poll_seconds, options.load_threads) == (ControlMode.NONE, 15.0, 4)
    assert options.exit_on_error
