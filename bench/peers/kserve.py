"""KServe's SDK with the identity model. It listens on every address, so it gets a network of its own: only loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.environment import HOME, running

__all__ = ["serve_kserve"]

SERVER = """
import logging
import sys

from kserve import InferOutput, InferResponse, Model, ModelServer


class Identity(Model):
    def __init__(self):
        super().__init__("identity")
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        sent = payload.inputs[0]
        output = InferOutput(name="OUT", shape=list(sent.shape), datatype=sent.datatype)
        output.set_data_from_numpy(sent.as_numpy(), binary_data=True)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])


logging.disable(logging.INFO)
ModelServer(http_port=18080, grpc_port=18081, workers=1, enable_docs_url=False).start([Identity()])
"""


@contextmanager
def serve_kserve(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves the model `identity`; its address, and the command that lets a client into its network."""
    folder.mkdir(parents=True)
    script = folder / "identity_server.py"
    script.write_text(SERVER)
    python = HOME / "kserve" / "bin" / "python"
    start = f"ip link set lo up && exec {python} {script}"
    with running(["unshare", "-n", "sh", "-c", start], folder / "log.txt") as pid:
        yield "127.0.0.1:18081", ["nsenter", "-t", str(pid), "-n"]
