"""LogSettings: what is asked is told, and takes effect on the log."""

import io
import logging
import re
from typing import Any

import pytest
from control_fakes import House
from tritonclient.grpc import service_pb2 as pb

from nextact_server.inference.infer_errors import ErrorCode, InferError

LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


def change(house: House, **settings: Any) -> dict[str, Any]:
    """All settings after some were changed."""
    request = pb.LogSettingsRequest()
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    for key, value in settings.items():
        if value is None:
            request.settings[key].SetInParent()
        else:
            setattr(request.settings[key], kinds[type(value)], value)
    answer = house.call("LogSettings", request, pb.LogSettingsResponse)
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in answer.settings.items()}


def written(house: House) -> str:
    """What of a record of every level is written."""
    stream = io.StringIO()
    house.handler.setStream(stream)
    for level in LEVELS:
        house.logger.log(level, logging.getLevelName(level))
    return stream.getvalue()


def levels(house: House) -> list[str]:
    return written(house).split()


def test_a_server_tells_its_settings() -> None:
    assert change(House()) == {
        "log_error": True,
        "log_warning": True,
        "log_info": True,
        "log_verbose_level": 0,
        "log_format": "default",
        "log_file": "",
    }


def test_each_level_is_switched_for_itself() -> None:
    house = House()
    assert levels(house) == ["INFO", "WARNING", "ERROR"]
    assert change(house, log_verbose_level=1)["log_verbose_level"] == 1
    assert levels(house) == ["DEBUG", "INFO", "WARNING", "ERROR"]
    change(house, log_info=False, log_verbose_level=0)
    assert levels(house) == ["WARNING", "ERROR"]
    change(house, log_error=False, log_info=True)
    assert levels(house) == ["INFO", "WARNING"]
    change(house, log_warning=False, log_info=False)
    assert levels(house) == []
    assert not house.logger.isEnabledFor(logging.ERROR), "what nobody reads is not even made"
    change(house, log_error=True, log_warning=True, log_info=True)
    assert levels(house) == ["INFO", "WARNING", "ERROR"]


def test_other_loggers_of_the_same_handler_are_left_alone() -> None:
    house = House()
    change(house, log_error=False)
    stream = io.StringIO()
    house.handler.setStream(stream)
    other = logging.Logger(house.logger.name + "_too")
    other.addHandler(house.handler)
    other.error("kept")
    house.logger.getChild("room").error("its own, and lost")
    assert stream.getvalue() == "kept\n"


def test_the_format_is_tritons_iso8601_or_the_servers_own() -> None:
    house = House()
    house.handler.setFormatter(logging.Formatter("own %(message)s"))
    assert change(house, log_format="ISO8601")["log_format"] == "ISO8601"
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ I \d+ server-\w+: INFO\n", written(house))
    assert change(house, log_format="default")["log_format"] == "default"
    assert written(house).startswith("own INFO\n")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("log_info", 1, "expect boolean for 'log_info'"),
        ("log_info", "x", "expect boolean for 'log_info'"),
        ("log_info", None, "expect boolean for 'log_info'"),
        ("log_verbose_level", True, "expect int32 for 'log_verbose_level'"),
        ("log_verbose_level", "1", "expect int32 for 'log_verbose_level'"),
        ("log_format", True, "expect string for 'log_format'"),
        ("log_format", "bad", "invalid argument for log_format, got: bad"),
    ],
)
def test_a_value_without_sense_is_refused_and_nothing_is_changed(key: str, value: object, message: str) -> None:
    house = House()
    before = change(house)
    with pytest.raises(InferError) as no:
        change(house, **{"log_error": False, key: value})
    assert (no.value.code, no.value.message) == (ErrorCode.INVALID_ARG, message)
    assert change(house) == before
    assert levels(house) == ["INFO", "WARNING", "ERROR"]


@pytest.mark.parametrize("path", ["/tmp/x.log", ""])
def test_where_the_log_goes_is_not_for_callers_to_say(path: str) -> None:
    with pytest.raises(InferError) as no:
        change(House(), log_file=path)
    assert no.value.code is ErrorCode.UNSUPPORTED
    assert no.value.message == "log file location can not be updated through network protocol"


def test_a_key_that_is_not_known_counts_for_nothing() -> None:
    house = House()
    assert change(house, foo=True, log_info=False)["log_info"] is False
    assert levels(house) == ["WARNING", "ERROR"]
