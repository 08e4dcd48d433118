"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload."""

import asyncio
import threading
from typing import Any

import pytest
from control_fakes import Entry, House, served
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument


def load(house: House, **parameters: Any) -> Any:
    request = pb.RepositoryModelLoadRequest(model_name="m")
    fill(request, parameters)
    return house.call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)


def unload(house: House, **parameters: Any) -> Any:
    request = pb.RepositoryModelUnloadRequest(model_name="m")
    fill(request, parameters)
    return house.call("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)


def fill(request: Any, parameters: dict[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", bytes: "bytes_param"}
    for key, value in parameters.items():
        setattr(request.parameters[key], kinds[type(value)], value)


def test_the_index_lists_what_the_repository_holds_and_why_it_is_not_ready() -> None:
    house = House()
    house.registry.entries = [Entry("a", "1", "READY"), Entry("b", "1", "UNAVAILABLE", "it raised"), Entry("c")]
    answer = house.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    assert [(m.name, m.version, m.state, m.reason) for m in answer.models] == [
        ("a", "1", "READY", ""),
        ("b", "1", "UNAVAILABLE", "it raised"),
        ("c", "", "", ""),
    ]
    answer = house.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True), pb.RepositoryIndexResponse)
    assert [model.name for model in answer.models] == ["a"]


def test_a_load_brings_its_configuration_and_files_by_their_path() -> None:
    house = House()
    load(house)
    load(house, **{"config": '{"backend": "python"}', "file:1/model.py": b"code"})
    assert house.registry.loaded == [("m", None, {}), ("m", '{"backend": "python"}', {"1/model.py": b"code"})]


def test_an_unload_takes_dependents_along_only_where_it_says_so() -> None:
    house = House(served("m"))
    unload(house)
    unload(house, unload_dependents=True)
    unload(house, foo=True)
    assert house.registry.unloaded == [("m", False), ("m", True), ("m", False)]


def test_why_a_load_failed_is_told() -> None:
    house = House()
    house.registry.failure = invalid_argument("load failed for model 'm': no")
    with pytest.raises(InferError, match="load failed for model 'm': no"):
        load(house)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"config": 3}, "invalid value type for load parameter 'config', expected string_param."),
        ({"config": b"{}"}, "invalid value type for load parameter 'config', expected string_param."),
        (
            {"file:1/model.py": "text"},
            "invalid value type for load parameter 'file:1/model.py', expected bytes_param.",
        ),
        ({"foo": "x"}, "unrecognized load parameter 'foo'."),
    ],
)
def test_a_load_parameter_that_makes_no_sense_is_refused(parameters: dict[str, Any], message: str) -> None:
    house = House()
    with pytest.raises(InferError) as no:
        load(house, **parameters)
    assert (no.value.code, no.value.message) == (ErrorCode.INVALID_ARG, message)
    assert not house.registry.loaded


@pytest.mark.parametrize("value", [1, "true"])
def test_unload_dependents_is_a_bool(value: object) -> None:
    with pytest.raises(InferError, match="'unload_dependents' parameter, expected bool_param"):
        unload(House(), unload_dependents=value)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x")),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(repository_name="x", model_name="m")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(repository_name="x", model_name="m")),
    ],
)
def test_there_is_one_repository_and_it_has_no_name(method: str, request_: Any) -> None:
    with pytest.raises(InferError, match="'repository_name' specification is not supported") as no:
        House().call(method, request_, pb.RepositoryIndexResponse)
    assert no.value.code is ErrorCode.UNSUPPORTED


def test_the_loop_goes_on_while_a_model_loads() -> None:
    house = House()
    go_on = threading.Event()

    def slow(name: str, config_json: str | None, files: object) -> None:
        assert go_on.wait(30)

    house.registry.load = slow  # type: ignore[method-assign, assignment]

    async def both() -> None:
        methods = house.service.methods
        loading = asyncio.ensure_future(methods["RepositoryModelLoad"](b""))
        await methods["ServerLive"](b"")
        assert not loading.done()
        go_on.set()
        await loading

    asyncio.run(both())
