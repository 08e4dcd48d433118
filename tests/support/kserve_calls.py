"""Calls of inference.GRPCInferenceService as messages, where tritonclient would not let a caller be wrong."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
from support.serving import PATIENCE, Serving
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

KSERVE = "inference.GRPCInferenceService"
HEAD = "import numpy as np\nimport triton_python_backend_utils as pb_utils\n"
ECHO = """
class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", each)]) for each in inputs]
"""


def stub_of(channel: grpc.Channel) -> Any:
    """The stub as tritonclient ships it."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer_request(
    model: str = "identity",
    array: np.ndarray | None = None,
    *,
    name: str = "IN",
    datatype: str = "FP32",
    shape: Iterable[int] | None = None,
    raw: bytes | None = None,
    **fields: Any,
) -> pb.ModelInferRequest:
    """A request with one input; `shape` and `raw` say something else of it than the array does."""
    array = np.zeros((1, 64), np.float32) if array is None else array
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name=name, datatype=datatype, shape=array.shape if shape is None else shape)
    request.raw_input_contents.append(array.tobytes() if raw is None else raw)
    return request


def load_request(
    model: str, code: str = ECHO, *, datatype: str = "TYPE_FP32", dims: tuple[int, ...] = (-1,), **config: Any
) -> pb.RepositoryModelLoadRequest:
    """A load that brings a python model whole: its input IN, its output OUT, and more of its configuration."""
    tensor = {"data_type": datatype, "dims": dims}
    whole = {"backend": "python", "input": [{"name": "IN", **tensor}], "output": [{"name": "OUT", **tensor}], **config}
    request = pb.RepositoryModelLoadRequest(model_name=model)
    request.parameters["config"].string_param = json.dumps(whole)
    request.parameters["file:1/model.py"].bytes_param = (HEAD + code).encode(errors="surrogatepass")
    return request


@contextmanager
def loaded(kserve: Serving, model: str, code: str = ECHO, **config: Any) -> Iterator[str]:
    """A python model for the length of a `with`."""
    stub = stub_of(kserve.channel)
    stub.RepositoryModelLoad(load_request(model, code, **config), timeout=PATIENCE)
    try:
        yield model
    finally:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=model), timeout=PATIENCE)


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """The name of the status that a call ends with, and what it says."""
    try:
        call()
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name), str(failed.details())
    return "OK", ""


def refusal(stub: Any, request: pb.ModelInferRequest) -> tuple[str, str]:
    """The `outcome` of one ModelInfer."""
    return outcome(lambda: stub.ModelInfer(request, timeout=PATIENCE))


def pending(kserve: Serving, model: str) -> int:
    """How many requests wait for a model or run, as its metric says."""
    with urlopen(f"http://{kserve.metrics}/metrics") as page:
        text = page.read().decode()
    found = re.search(rf'^nv_inference_pending_request_count{{model="{model}",.*?}} (\S+)$', text, re.MULTILINE)
    assert found, text
    return int(float(found[1]))


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Return once it holds, of a state that tells nobody when it changes."""
    pause = threading.Event()
    for _ in range(PATIENCE * 50):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError(what or "it never came true")
