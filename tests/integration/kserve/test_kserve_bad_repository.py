"""Loads that bring what nobody should: paths that lead out, configs without sense or of any size."""

from typing import Any

import numpy as np
import pytest
from support.kserve_calls import infer_request, load_request, loaded, outcome, refusal
from support.serving import PATIENCE, Serving
from tritonclient.grpc import service_pb2 as pb

pytestmark = pytest.mark.usefixtures("next_request_works")
PATHS = ["../x.py", "/etc/x", "1/../../x", "", ".", "x" * 300, "1/model.py/y", "a\0b", "//x", "1/./../../../x"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path)[:12])
def test_files_of_a_load_stay_within_the_model(wild: Any, path: str) -> None:
    request = load_request("brought_along")
    request.parameters[f"file:{path}"].bytes_param = b"x"
    code, _ = outcome(lambda: wild.RepositoryModelLoad(request, timeout=PATIENCE))
    assert code == "INVALID_ARGUMENT"


CONFIGS = {
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "long": '{"name": "' + "x" * 10_000_000 + '"}',
    "many": '{"input": [' + ",".join(['{"name": "IN"}'] * 100_000) + "]}",
    "null": "null",
    "number": "3",
    "empty": "",
    "infinity": '{"max_batch_size": 1e400}',
    "too large": '{"max_batch_size": 99999999999}',
    "surrogate": '{"name": "\\ud800"}',
    "no version": '{"version_policy": {"specific": {"versions": [-5, 0]}}}',
    "another file": '{"backend": "python", "default_model_filename": "../../../../etc/passwd"}',
    "no path": '{"output": [{"name": "O", "data_type": 11, "dims": [4], "label_filename": "\\u0000"}]}',
    "datatype": '{"backend": "python", "input": [{"name": "IN", "data_type": 99, "dims": [4]}]}',
    "no backend": '{"backend": "../../python"}',
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_without_sense_is_refused_and_the_old_model_serves(wild: Any, kind: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="add_one")
    request.parameters["config"].string_param = CONFIGS[kind]
    assert outcome(lambda: wild.RepositoryModelLoad(request, timeout=PATIENCE))[0] == "INVALID_ARGUMENT"
    assert refusal(wild, infer_request("add_one"))[0] == "OK"


def test_more_instances_than_a_machine_has_room_for_are_refused(wild: Any) -> None:
    request = load_request("many_instances", instance_group=[{"count": 2**31 - 1, "kind": "KIND_CPU"}])
    code, text = outcome(lambda: wild.RepositoryModelLoad(request, timeout=PATIENCE))
    assert (code, "at most 1024" in text) == ("INVALID_ARGUMENT", True)


START = {"name": "START", "control": [{"kind": 0, "int32_false_true": [0, 1]}]}
READY = {"name": "READY", "control": [{"kind": 1, "int32_false_true": [0, 1]}]}
GIGANTIC: dict[str, dict[str, Any]] = {
    "direct": {"max_batch_size": 2**31 - 1, "sequence_batching": {"direct": {}}},
    "oldest": {"max_batch_size": 8, "sequence_batching": {"oldest": {"max_candidate_sequences": 2**31 - 1}}},
    "dynamic": {"max_batch_size": 2**31 - 1, "dynamic_batching": {"max_queue_delay_microseconds": 1}},
    "levels": {
        "max_batch_size": 1,
        "dynamic_batching": {"priority_levels": 2**64 - 1, "default_priority_level": 2**64 - 1},
    },
}


@pytest.mark.parametrize("kind", GIGANTIC)
def test_bounds_of_any_size_cost_nothing_until_they_are_used(kserve: Serving, wild: Any, kind: str) -> None:
    config = GIGANTIC[kind]
    if "sequence_batching" in config:
        config = {**config, "sequence_batching": {**config["sequence_batching"], "control_input": [START, READY]}}
    with loaded(kserve, f"gigantic_{kind}", **config) as model:
        request = infer_request(model, np.ones((1, 2), np.float32))
        request.parameters["sequence_id"].int64_param = 1
        request.parameters["sequence_start"].bool_param = True
        assert refusal(wild, request) == ("OK", "")
