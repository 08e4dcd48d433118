"""Every call of unmodified tritonclient, synchronous and asyncio, against the real server."""

import asyncio
import base64
import json
import queue
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aioclient
import tritonclient.utils.shared_memory as shm
from support.serving import Serving
from support.tensors import floats, tensor
from tritonclient.utils import InferenceServerException

Client = grpcclient.InferenceServerClient
EXTENSIONS = {
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
}


def test_server_live_ready_and_metadata(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "nextact"
    assert metadata.version
    assert set(metadata.extensions) <= EXTENSIONS
    assert {"classification", "sequence", "statistics", "model_repository"} <= set(metadata.extensions)


def test_model_ready_metadata_and_config(client: Client) -> None:
    assert client.is_model_ready("identity")
    assert client.is_model_ready("identity", "1")
    assert not client.is_model_ready("identity", "9")
    assert not client.is_model_ready("nowhere")
    metadata = client.get_model_metadata("identity", as_json=True)
    assert metadata["inputs"] == [{"name": "IN", "datatype": "FP32", "shape": ["-1", "64"]}]
    config = client.get_model_config("identity").config
    assert (config.name, config.backend, config.max_batch_size) == ("identity", "python", 32)
    assert client.get_model_config("next_action").config.HasField("sequence_batching")


@pytest.mark.parametrize("model", ["image_encoder", "text_encoder", "next_action", "identity", "diamond"])
def test_models_of_every_kind_are_described(client: Client, model: str) -> None:
    metadata = client.get_model_metadata(model)
    assert metadata.inputs
    assert metadata.outputs
    assert metadata.versions == ["1"]


def test_infer_sync_and_async(client: Client) -> None:
    sent = floats(2, 64)
    answer = client.infer("identity", [tensor("IN", sent)], request_id="mine", model_version="1")
    np.testing.assert_array_equal(answer.as_numpy("OUT"), sent)
    assert answer.get_response().id == "mine"
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.async_infer("identity", [tensor("IN", sent)], lambda result, error: arrived.put((result, error)))
    result, error = arrived.get(timeout=10)
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("OUT"), sent)


def test_a_stream_of_a_decoupled_model(client: Client) -> None:
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: arrived.put((result, error)))
    client.async_stream_infer(
        "repeat", [tensor("IN", np.array([5, 6], np.int32))], request_id="r", enable_empty_final_response=True
    )
    results = [arrived.get(timeout=10) for _ in range(3)]
    client.stop_stream()
    assert [error for _, error in results] == [None] * 3
    responses = [result.get_response() for result, _ in results]
    assert [response.parameters["triton_final_response"].bool_param for response in responses] == [False, False, True]
    assert [int(result.as_numpy("OUT")[0]) for result, _ in results[:2]] == [5, 6]
    assert {response.id for response in responses} == {"r"}


def test_statistics_count_what_was_done(client: Client) -> None:
    before = client.get_inference_statistics("labels", as_json=True)["model_stats"][0]
    client.infer("labels", [tensor("IN", floats(4, 3))])
    with pytest.raises(InferenceServerException):
        client.infer("failing", [tensor("IN", np.array([b"raise"], np.object_))])
    after = client.get_inference_statistics("labels", "1", as_json=True)["model_stats"][0]
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 4
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 1
    assert {int(each["batch_size"]) for each in after["batch_stats"]} >= {4}
    failed = client.get_inference_statistics("failing", as_json=True)["model_stats"][0]
    assert int(failed["inference_stats"]["fail"]["count"]) >= 1
    names = {each.name for each in client.get_inference_statistics().model_stats}
    assert {"identity", "next_action", "text_encoder"} <= names


def test_repository_index_load_and_unload(client: Client) -> None:
    index = {entry.name: entry.state for entry in client.get_model_repository_index().models}
    assert index["identity"] == index["next_action"] == "READY"
    client.unload_model("labels")
    assert not client.is_model_ready("labels")
    with pytest.raises(InferenceServerException, match="labels"):
        client.infer("labels", [tensor("IN", floats(1, 3))])
    client.load_model("labels")
    assert client.is_model_ready("labels")
    config = {"backend": "python", "max_batch_size": 2}
    config["input"] = [{"name": "IN", "data_type": "TYPE_FP32", "dims": [3]}]
    config["output"] = [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [3]}]
    client.load_model("labels", config=json.dumps(config))
    assert client.get_model_config("labels").config.max_batch_size == 2
    client.load_model("labels")
    with pytest.raises(InferenceServerException, match="nowhere"):
        client.load_model("nowhere")


CODE = b"""
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor(
            "OUT", 2 * pb_utils.get_input_tensor_by_name(r, "IN").as_numpy())]) for r in requests]
"""


def test_a_model_comes_whole_with_the_call(client: Client) -> None:
    config = {
        "backend": "python",
        "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [2]}],
    }
    client.load_model("brought", config=json.dumps(config), files={"file:1/model.py": CODE})
    answer = client.infer("brought", [tensor("IN", np.array([1, 2], np.float32))])
    np.testing.assert_array_equal(answer.as_numpy("OUT"), [2, 4])
    client.unload_model("brought")


def test_models_that_hold_users_stay(client: Client) -> None:
    for model in ("next_action", "text_encoder", "image_encoder"):
        with pytest.raises(InferenceServerException, match="for the life of the server"):
            client.unload_model(model)
        assert client.is_model_ready(model)


def test_system_shared_memory_for_inputs_and_outputs(client: Client) -> None:
    sent = floats(2, 64, seed=5)
    name = f"nextact-{uuid.uuid4().hex[:8]}"
    region = shm.create_shared_memory_region(name, f"/{name}", 2 * sent.nbytes)
    try:
        shm.set_shared_memory_region(region, [sent])
        client.register_system_shared_memory(name, f"/{name}", 2 * sent.nbytes)
        assert name in client.get_system_shared_memory_status().regions
        given = grpcclient.InferInput("IN", [2, 64], "FP32")
        given.set_shared_memory(name, sent.nbytes)
        wanted = grpcclient.InferRequestedOutput("OUT")
        wanted.set_shared_memory(name, sent.nbytes, offset=sent.nbytes)
        client.infer("identity", [given], outputs=[wanted])
        got = shm.get_contents_as_numpy(region, np.float32, [2, 64], offset=sent.nbytes)
        np.testing.assert_array_equal(got, sent)
        client.unregister_system_shared_memory(name)
        with pytest.raises(InferenceServerException, match=name):
            client.infer("identity", [given])
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(region)


def test_cuda_shared_memory_says_why_not(client: Client) -> None:
    assert not client.get_cuda_shared_memory_status().regions
    with pytest.raises(InferenceServerException) as refused:
        client.register_cuda_shared_memory("gpu", base64.b64encode(bytes(64)), 0, 1024)
    assert "INTERNAL" not in str(refused.value.status())
    client.unregister_cuda_shared_memory()


def test_trace_and_log_settings(client: Client) -> None:
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"] == ["OFF"]
    told = client.update_trace_settings("identity", {"trace_rate": "7"}, as_json=True)
    assert told["settings"]["trace_rate"]["value"] == ["7"]
    assert client.get_trace_settings("labels", as_json=True)["settings"]["trace_rate"]["value"] != ["7"]
    client.update_trace_settings("identity", {"trace_rate": None})
    with pytest.raises(InferenceServerException, match="trace file"):  # there is no directory for it
        client.update_trace_settings(settings={"trace_level": "TIMESTAMPS"})
    assert "log_verbose_level" in client.get_log_settings(as_json=True)["settings"]
    told = client.update_log_settings({"log_verbose_level": 1}, as_json=True)
    assert told["settings"]["log_verbose_level"] == {"uint32_param": 1}
    client.update_log_settings({"log_verbose_level": 0})


def test_all_of_it_with_asyncio(kserve: Serving) -> None:
    async def drive() -> None:
        async with aioclient.InferenceServerClient(kserve.target) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert (await client.get_server_metadata()).name == "nextact"
            assert await client.is_model_ready("identity")
            assert (await client.get_model_metadata("identity")).name == "identity"
            assert (await client.get_model_config("identity")).config.name == "identity"
            assert (await client.get_inference_statistics("identity")).model_stats
            assert (await client.get_model_repository_index()).models
            sent = floats(3, 64)
            answers = await asyncio.gather(*[client.infer("identity", [tensor("IN", sent + n)]) for n in range(20)])
            for number, answer in enumerate(answers):
                np.testing.assert_array_equal(answer.as_numpy("OUT"), sent + number)
            await client.unload_model("labels")
            await client.load_model("labels")
            await client.get_system_shared_memory_status()
            await client.unregister_system_shared_memory()
            await client.get_cuda_shared_memory_status()
            await client.unregister_cuda_shared_memory()
            await client.get_trace_settings()
            await client.update_trace_settings(settings={"trace_rate": None})
            await client.get_log_settings()
            await client.update_log_settings({"log_verbose_level": 0})
            await stream(client)

    async def stream(client: Any) -> None:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for value in (3, 4):
                inputs = [tensor("IN", np.array([value], np.int32))]
                yield {"model_name": "repeat", "inputs": inputs, "request_id": str(value)}

        got = {}
        iterator = client.stream_infer(inputs_iterator=requests())
        async for result, error in iterator:
            assert error is None
            got[result.get_response().id] = int(result.as_numpy("OUT")[0])
            if len(got) == 2:
                iterator.cancel()
                break
        assert got == {"3": 3, "4": 4}

    asyncio.run(drive())
