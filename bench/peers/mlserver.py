"""MLServer with the identity model, in one process, its adaptive batching on or off."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.environment import HOME, free_ports, running, wait_until_ready

__all__ = ["serve_mlserver"]

MODEL = """
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Identity(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        sent = payload.inputs[0]
        output = ResponseOutput(name="OUT", datatype=sent.datatype, shape=sent.shape, data=sent.data)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
"""


@contextmanager
def serve_mlserver(folder: Path, *, batching: bool = False) -> Iterator[str]:
    """Serves the model `identity` from a new folder; the address of its gRPC port."""
    model = folder / "identity"
    model.mkdir(parents=True)
    http, grpc, metrics = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (model / "identity_model.py").write_text(MODEL)
    described: dict[str, object] = {"name": "identity", "implementation": "identity_model.Identity"}
    if batching:
        described |= {"max_batch_size": 32, "max_batch_time": 0.001}
    (model / "model-settings.json").write_text(json.dumps(described))
    log = folder / "log.txt"
    with running([str(HOME / "mlserver" / "bin" / "mlserver"), "start", str(folder)], log):
        address = f"127.0.0.1:{grpc}"
        wait_until_ready(address, log, ready="identity")
        yield address
