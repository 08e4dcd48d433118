"""docs/triton-compatibility.md names every RPC, every extension and every field of a config, and tells the truth."""

import re
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from nextact_server.repository.unsupported import UNSUPPORTED
from nextact_server.rpc.kserve.metadata import server_metadata

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "triton-compatibility.md").read_text(encoding="utf-8")
ROWS = {
    name: verdict
    for names, verdict in re.findall(r"^\| ([^|]+) \| (yes|partly|no) \|", PAGE, re.MULTILINE)
    for name in re.split(r", ", names)
}


def test_every_rpc_has_a_row() -> None:
    methods = {method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert methods <= ROWS.keys()


def test_every_field_of_a_config_has_a_row() -> None:
    fields = {field.name for field in model_config_pb2.ModelConfig.DESCRIPTOR.fields}
    assert fields <= ROWS.keys()


def test_every_extension_that_is_offered_is_said_to_be_there() -> None:
    offered = set(server_metadata("1", cuda=True).extensions)
    assert {name for name in offered if ROWS.get(name) not in ("yes", "partly")} == set()


@pytest.mark.parametrize("field", UNSUPPORTED, ids=lambda field: field.path)
def test_what_is_passed_over_is_not_called_supported(field: object) -> None:
    path = field.path  # type: ignore[attr-defined]
    assert ROWS[path.partition(".")[0]] in ("no", "partly")
