"""Ensembles and the models they are made of: order, dependence, circles."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_models import (
    WAIT_S,
    FakeBackend,
    FakeInstance,
    ask,
    config_text,
    ensemble_text,
    make_registry,
    reason,
    states,
    write_model,
)

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.repository.lifecycle import circle


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


def test_an_ensemble_brings_its_models_with_it(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    write_model(tmp_path, "ens", ensemble_text("net"))
    registry = make_registry(tmp_path, backend)
    registry.load("ens")
    assert ask(registry, "ens").value() == 5
    assert states(registry, "net") == {"1": "READY"}
    registry.unload("ens")
    assert registry.is_ready("net")
    registry.close()


def test_all_ensembles_are_loaded_after_their_models(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "z_net", config_text(), v1=5)
    write_model(tmp_path, "a_ens", ensemble_text("b_ens"))
    write_model(tmp_path, "b_ens", ensemble_text("z_net"))
    registry = make_registry(tmp_path, backend, "none")
    registry.start()
    assert ask(registry, "a_ens").value() == 5
    assert backend.loads("z_net") == [1]
    registry.close()


def test_unloading_a_model_unloads_the_ensembles_that_use_it(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    write_model(tmp_path, "ens", ensemble_text("net"))
    write_model(tmp_path, "outer", ensemble_text("ens"))
    registry = make_registry(tmp_path, backend)
    registry.load("outer")
    registry.unload("net")
    assert not registry.is_ready("ens")
    assert not registry.is_ready("outer")
    assert reason(registry, "ens", "1") == "unloaded"
    with pytest.raises(InferError, match="'ens' has no available versions"):
        registry.get("ens")
    registry.load("net")
    assert ask(registry, "outer").value() == 5
    registry.unload("ens")
    registry.unload("net")
    registry.load("net")
    assert not registry.is_ready("ens")
    registry.close()


def test_unload_dependents_takes_the_models_with_it(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    write_model(tmp_path, "own", config_text(), v1=6)
    write_model(tmp_path, "ens", ensemble_text("net"))
    registry = make_registry(tmp_path, backend, pinned=frozenset({"own"}))
    registry.start()
    registry.load("ens")
    registry.unload("ens", unload_dependents=True)
    assert not registry.is_ready("ens")
    assert not registry.is_ready("net")
    assert registry.is_ready("own")
    registry.close()


def test_an_ensemble_in_flight_is_answered_before_its_model_goes(tmp_path: Path, backend: FakeBackend) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    write_model(tmp_path, "ens", ensemble_text("net"))
    registry = make_registry(tmp_path, backend)
    registry.load("ens")
    running, go_on = threading.Event(), threading.Event()

    def executed(instance: FakeInstance, requests: Sequence[InferRequest]) -> None:
        running.set()
        assert go_on.wait(WAIT_S)

    backend.executed = executed
    answer = ask(registry, "ens")
    assert running.wait(WAIT_S)
    closing = threading.Thread(target=registry.close)
    closing.start()
    go_on.set()
    assert answer.value() == 5
    closing.join(WAIT_S)
    assert not closing.is_alive()


def test_a_model_that_does_not_fit_any_more_takes_the_ensemble_down(tmp_path: Path, backend: FakeBackend) -> None:
    folder = write_model(tmp_path, "net", config_text(), v1=5)
    write_model(tmp_path, "ens", ensemble_text("net"))
    registry = make_registry(tmp_path, backend)
    registry.load("ens")
    (folder / "config.pbtxt").write_text(config_text(max_batch_size=2))
    registry.load("net")
    assert not registry.is_ready("ens")
    said = "ensemble ens allows maximum batch size 4, but it contains model net which only allows maximum batch size"
    assert said in reason(registry, "ens", "1") or states(registry, "ens") == {"1": "UNLOADING"}
    with pytest.raises(InferError, match=said):
        registry.load("ens")
    (folder / "config.pbtxt").write_text(config_text(max_batch_size=8))
    registry.load("net")
    assert ask(registry, "ens").value() == 5
    registry.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ensemble_text("nosuch"), "ensemble ens contains models that are not available or ambiguous: nosuch"),
        (
            ensemble_text("bad"),
            (
                "ensemble 'ens' depends on 'bad' which has no loaded version. Model 'bad' loading failed with error: "
                "version 1 is at UNAVAILABLE state: Internal: ValueError: could not convert string to float: 'broken';"
            ),
        ),
        (
            ensemble_text("net").replace("model_version: -1", "model_version: 7"),
            "ensemble 'ens' depends on 'net' whose required version 7 is not loaded.",
        ),
        (ensemble_text("ens"), "circular dependency between ensembles: ens -> ... -> ens -> ens"),
        (ensemble_text("other"), "circular dependency between ensembles: ens -> ... -> other -> ens"),
        (
            ensemble_text("net").replace("TYPE_FP32", "TYPE_INT32"),
            (
                "in ensemble ens, ensemble tensor IN: inconsistent data type: TYPE_INT32 is inferred from model ens "
                "while TYPE_FP32 is inferred from model net"
            ),
        ),
        (
            ensemble_text("net").replace("dims: [ 1 ]", "dims: [ 3 ]"),
            (
                "in ensemble ens, ensemble tensor IN: inconsistent shape: [-1,3] is inferred from model ens while "
                "[-1,1] is inferred from model net"
            ),
        ),
        (
            ensemble_text("net").replace('key: "IN"', 'key: "NOPE"'),
            "in ensemble ens, ensemble tensor IN is mapping to non-existing input NOPE in model net",
        ),
    ],
)
def test_what_is_wrong_with_an_ensemble_is_said_as_triton_says_it(
    tmp_path: Path, backend: FakeBackend, text: str, said: str
) -> None:
    write_model(tmp_path, "net", config_text(), v1=5)
    write_model(tmp_path, "bad", config_text(), v1="broken")
    write_model(tmp_path, "other", ensemble_text("ens"))
    write_model(tmp_path, "ens", text)
    registry = make_registry(tmp_path, backend)
    with pytest.raises(InferError) as caught:
        registry.load("ens")
    assert caught.value.code is ErrorCode.INVALID_ARG
    assert said in caught.value.message
    assert any(said in line.reason for line in registry.index() if line.name == "ens")
    registry.close()


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)))
def test_a_circle_is_found_exactly_where_there_is_one(graph: dict[str, list[str]]) -> None:
    reached = set(graph.get("a", []))
    for _ in range(6):
        reached |= {member for name in reached for member in graph.get(name, [])}
    way = circle("a", graph.get("a", []), lambda name: graph.get(name, []))
    assert bool(way) == ("a" in reached)
    for name, member in zip(way, [*way[1:], "a"], strict=False):
        assert member in graph[name]
