"""Versions that change under load: no request fails, and none reaches a version that was freed."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from support.fake_models import WAIT_S, Answer, FakeBackend, ask, config_text, make_registry, write_model

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest
from nextact_server.repository.served import Retired

CALLERS = 4
SWITCHES = 12


@pytest.mark.parametrize("scheduling", ["", "dynamic_batching { }"])
def test_a_load_under_traffic_fails_no_request(tmp_path: Path, scheduling: str) -> None:
    backend = FakeBackend()
    write_model(tmp_path, "net", config_text(scheduling + " version_policy { latest { num_versions: 2 } }"), v1=1)
    registry = make_registry(tmp_path, backend)
    registry.load("net")
    over = threading.Event()
    answers: list[list[Answer]] = [[] for _ in range(CALLERS)]
    failures: list[BaseException] = []

    def call(mine: list[Answer], by_registry: bool) -> None:
        try:
            while not over.is_set():
                if by_registry:
                    mine.append(ask(registry, "net"))
                    mine[-1].value()
                    continue
                answer = Answer()
                request = InferRequest({"IN": np.zeros((1, 1), np.float32)}, answer)
                while True:  # as the RPC does
                    try:
                        registry.get("net").infer([request])
                        break
                    except Retired:
                        continue
                mine.append(answer)
                answer.value()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(answers[at], at % 2 == 0)) for at in range(CALLERS)]
    for thread in threads:
        thread.start()
    for version in range(2, 2 + SWITCHES):
        write_model(tmp_path, "net", **{f"v{version}": version})
        registry.load("net")
        registry.load("net", config_text_json(version))
    registry.load("net")
    last = registry.get("net")
    over.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == []
    values = [answer.value() for mine in answers for answer in mine]
    assert set(values) <= set(range(1, 2 + SWITCHES))
    assert ask(registry, "net").value() == 1 + SWITCHES
    assert last.spec.version == 1 + SWITCHES
    registry.close()
    assert all(version.closed.is_set() for version in backend.versions)


def config_text_json(version: int) -> str:
    """A config that replaces the file's: a reload of versions whose files did not change."""
    return json.dumps({"backend": "fake", "max_batch_size": 4, "parameters": {"x": {"string_value": str(version)}}})


def test_a_retired_version_is_looked_up_again(tmp_path: Path) -> None:
    backend = FakeBackend()
    write_model(tmp_path, "net", config_text(), v1=1)
    registry = make_registry(tmp_path, backend)
    registry.load("net")
    old = registry.get("net")
    look = registry._table.get
    first = [old]
    registry._table.get = lambda name, version: first.pop() if first else look(name, version)  # type: ignore[method-assign]
    write_model(tmp_path, "net", v2=2)
    registry.load("net")
    assert backend.versions[0].closed.wait(WAIT_S)
    with pytest.raises(Retired):
        old.infer([])
    assert ask(registry, "net").value() == 2
    registry.close()


def test_a_version_that_is_gone_for_good_is_not_looked_up_for_ever(tmp_path: Path) -> None:
    write_model(tmp_path, "net", config_text(), v1=1)
    registry = make_registry(tmp_path, FakeBackend())
    registry.load("net")
    old = registry.get("net")
    registry._table.get = lambda name, version: old  # type: ignore[method-assign]
    old.close()
    with pytest.raises(InferError, match="'net' version 1 is not at ready state"):
        ask(registry, "net")


def test_a_request_that_does_not_fit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    write_model(tmp_path, "net", config_text(), v1=1)
    registry = make_registry(tmp_path, FakeBackend())
    registry.load("net")
    answer = Answer()
    with pytest.raises(InferError, match="expected 1 inputs but got 0 inputs for model 'net'"):
        registry.infer("net", "", InferRequest({}, answer))
    assert answer.responses == []
    registry.close()


def test_a_request_knows_its_rows(tmp_path: Path) -> None:
    write_model(tmp_path, "net", config_text(), v1=1)
    registry = make_registry(tmp_path, FakeBackend())
    registry.load("net")
    request = InferRequest({"IN": np.zeros((3, 1), np.float32)}, Answer())
    registry.infer("net", "", request)
    assert request.batch_size == 3
    registry.close()
