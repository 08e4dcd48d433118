"""`python -m bench.peers.probe ADDRESS`: waits for the model `identity` and checks that it gives back what it gets."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient

from bench.peers.environment import wait_until_ready


def main(address: str) -> None:
    """Raises AssertionError for another answer, TimeoutError for none."""
    with tempfile.NamedTemporaryFile() as log:
        wait_until_ready(address, Path(log.name), ready="identity")
    sent = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    tensor = grpcclient.InferInput("IN", [1, 64], "FP32")
    tensor.set_data_from_numpy(sent)
    with grpcclient.InferenceServerClient(address) as client:
        answer = client.infer("identity", [tensor]).as_numpy("OUT")
    np.testing.assert_array_equal(answer.reshape(1, 64), sent)


if __name__ == "__main__":
    main(sys.argv[1])
