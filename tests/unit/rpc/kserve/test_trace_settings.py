"""TraceSetting: what can be set, for all models and for one, and what is refused as Triton refuses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_fakes import House, served
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.rpc.kserve.trace import Tracer


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    tracer = Tracer(tmp_path)
    yield tracer
    tracer.close()


@pytest.fixture
def house(tracer: Tracer) -> House:
    return House(served("m"), served("n"), tracer=tracer)


def setting(house: House, model: str = "", **settings: list[str]) -> dict[str, str]:
    """Every setting after some were changed; a list of nothing clears one."""
    request = pb.TraceSettingRequest(model_name=model)
    for key, values in settings.items():
        request.settings[key].SetInParent()
        request.settings[key].value.extend(values)
    answer = house.call("TraceSetting", request, pb.TraceSettingResponse)
    return {key: ",".join(setting.value) for key, setting in answer.settings.items()}


def test_a_server_without_a_directory_traces_nothing_and_says_why() -> None:
    house = House(served("m"))
    assert setting(house) == {
        "trace_level": "OFF",
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "triton",
    }
    with pytest.raises(InferError) as no:
        setting(house, trace_level=["TIMESTAMPS"])
    assert no.value.message == "Attempting to set invalid trace setting :trace file name is not given"
    assert setting(house, trace_rate=["7"])["trace_rate"] == "7"
    for values in (["x.json"], []):
        with pytest.raises(InferError) as no:
            setting(house, trace_file=values)
        assert no.value.code is ErrorCode.UNSUPPORTED
        assert no.value.message == "trace file location can not be updated through network protocol"


def test_settings_are_changed_and_told(house: House, tmp_path: Path) -> None:
    changed = setting(house, trace_level=["TENSORS", "TIMESTAMPS"], trace_rate=["5"], trace_count=["10"])
    assert changed == {
        "trace_level": "TIMESTAMPS,TENSORS",
        "trace_rate": "5",
        "trace_count": "10",
        "log_frequency": "0",
        "trace_file": str(tmp_path / "trace.json"),
        "trace_mode": "triton",
    }
    assert setting(house) == setting(house, "m") == changed
    assert setting(house, trace_level=["OFF"])["trace_level"] == "OFF"


def test_a_model_has_its_own_settings_and_falls_back_to_all_models(house: House) -> None:
    setting(house, trace_rate=["5"], log_frequency=["3"])
    assert setting(house, "m", trace_rate=["7"])["log_frequency"] == "3"
    assert setting(house)["trace_rate"] == "5"
    assert setting(house, log_frequency=["4"])["log_frequency"] == "4"
    assert setting(house, "m") == {**setting(house), "trace_rate": "7"}
    assert setting(house, "n")["trace_rate"] == "5"
    assert setting(house, "m", trace_rate=[])["trace_rate"] == "5"
    assert setting(house, trace_rate=[])["trace_rate"] == "1000"


def test_a_file_is_within_the_directory(house: House, tmp_path: Path) -> None:
    assert setting(house, trace_file=["a/b.json"])["trace_file"] == str(tmp_path / "a" / "b.json")
    inside = str(tmp_path / "c.json")
    assert setting(house, trace_file=[inside])["trace_file"] == inside
    (tmp_path / "out").symlink_to("/tmp")
    for outside in ("../x.json", "/etc/passwd", "a/../../x", ".", "", "out/x.json", "a\0b"):
        with pytest.raises(InferError, match="'trace_file'") as no:
            setting(house, trace_file=[outside])
        assert no.value.code is ErrorCode.INVALID_ARG
    assert setting(house)["trace_file"] == inside
    assert setting(house, trace_file=[])["trace_file"] == str(tmp_path / "trace.json")


def test_what_triton_does_not_look_at_counts_for_nothing(house: House) -> None:
    before = setting(house)
    assert setting(house, foo=["x"], trace_mode=["opentelemetry"]) == before
    assert setting(house, trace_level=["FOO"]) == before
    assert setting(house, trace_rate=["-1"])["trace_rate"] == "4294967295"
    assert setting(house, trace_rate=["3x"])["trace_rate"] == "3"
    assert setting(house, trace_rate=["0"])["trace_rate"] == "0", "tracing is off"


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("trace_level", ["OFF", "TIMESTAMPS"], "Expect only one trace level 'OFF' is specified"),
        ("trace_rate", ["x"], "Unable to parse 'trace_rate', got: x"),
        ("trace_rate", [""], "Unable to parse 'trace_rate', got: "),
        ("trace_rate", ["1", "2"], "expect only 1 value for 'trace_rate'"),
        (
            "trace_rate",
            ["4294967296"],
            "Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: 4294967296",
        ),
        (
            "trace_rate",
            ["9" * 9000],
            f"Unable to parse 'trace_rate', value is out of range [ 0, 4294967295 ], got: {'9' * 9000}",
        ),
        ("log_frequency", ["x"], "Unable to parse 'log_frequency', got: x"),
        ("trace_count", ["x"], "Unable to parse 'trace_count', got: x"),
        ("trace_count", ["-2"], "Unable to parse 'trace_count'. Expecting value >= -1, got: -2"),
        (
            "trace_count",
            ["99999999999"],
            "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: 99999999999",
        ),
    ],
)
def test_a_value_without_sense_is_refused_and_nothing_is_changed(
    house: House, key: str, values: list[str], message: str
) -> None:
    before = setting(house)
    with pytest.raises(InferError) as no:
        setting(house, **{"log_frequency": ["9"], key: values})
    assert (no.value.code, no.value.message) == (ErrorCode.INVALID_ARG, message)
    assert setting(house) == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"trace_rate": ["0"]}, "sample rate must be non-zero"), ({"trace_count": ["0"]}, "")],
)
def test_settings_that_could_trace_nothing_are_refused(
    house: House, settings: dict[str, list[str]], reason: str
) -> None:
    with pytest.raises(InferError) as no:
        setting(house, trace_level=["TIMESTAMPS"], **settings)
    assert no.value.message == f"Attempting to set invalid trace setting :{reason}"


def test_an_unknown_model_has_no_settings(house: House) -> None:
    with pytest.raises(InferError) as no:
        setting(house, "nosuch")
    assert (no.value.code, no.value.message) == (ErrorCode.INVALID_ARG, "Request for unknown model : nosuch")
