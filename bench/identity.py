"""The identity model, FP32 [1, 64], over KServe v2: nextact beside the real Triton, MLServer and KServe, in turn."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from bench import h2load
from bench.figures import Figure, Sample, Target, alternate, ratios
from bench.peers.environment import ROOT, why_not_installed
from bench.peers.kserve import serve_kserve
from bench.peers.mlserver import serve_mlserver
from bench.peers.triton import serve_triton, why_no_triton
from bench.plan import Plan
from bench.processes import nextact_server

__all__ = ["MODELS", "identity_message", "measure"]

PART = "KServe v2 identity"
MODELS = ROOT / "tests" / "triton" / "repository"
"""The same files are served by nextact and by Triton."""
PATH = "/inference.GRPCInferenceService/ModelInfer"
CONCURRENCIES = (1, 8, 32)
TARGETED = (8, 32)
NEXTACT = "nextact"
SECONDS = 1.5
GUESS = {NEXTACT: 8000, "Triton, python backend": 5000, "MLServer": 900, "MLServer, batching": 800, "KServe": 1200}
"""Calls per second by which a round's length is chosen."""
LEAST = {"Triton, python backend": 1.0, "MLServer": 6.0, "MLServer, batching": 6.0, "KServe": 6.0}


@dataclass(frozen=True, slots=True)
class _Server:
    address: str
    within: Sequence[str] = ()


def measure(plan: Plan) -> list[Figure]:
    """Calls per second at each concurrency, and nextact's ratio to each peer that is installed."""
    if not h2load.is_installed():
        return [Figure(PART, "not measured", "", None, note="h2load is not installed (Debian: nghttp2-client)")]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextact-identity-")))
        servers, absent = _start(plan, stack, folder)
        for name, server in servers.items():
            plan.say(f"checking {name}")
            command = [*server.within, sys.executable, "-m", "bench.peers.probe", server.address]
            subprocess.run(command, cwd=ROOT, check=True, timeout=120)
        figures = [Figure(PART, name, "", None, note=reason) for name, reason in absent.items()]
        for concurrency in CONCURRENCIES if not plan.is_quick else TARGETED:
            plan.say(f"{concurrency} concurrent calls: {', '.join(servers)}")
            measures = [
                partial(
                    h2load.calls_per_second,
                    server.address,
                    PATH,
                    identity_message(),
                    concurrency,
                    plan.size(int(GUESS[name] * SECONDS) // (4 if concurrency == 1 else 1), 200),
                    server.within,
                )
                for name, server in servers.items()
            ]
            taken = dict(zip(servers, alternate(plan.rounds, measures), strict=True))
            figures += _figures(concurrency, taken)
    return figures


def _start(plan: Plan, stack: ExitStack, folder: Path) -> tuple[dict[str, _Server], dict[str, str]]:
    """Starts what is installed; the servers by name, and why the others are not there."""
    plan.say("starting nextact and its peers")
    served = stack.enter_context(nextact_server(plan.repository, {"tensor-repository": str(MODELS)}))
    servers = {NEXTACT: _Server(served.grpc)}
    absent: dict[str, str] = {}
    if reason := why_no_triton():
        absent["Triton, python backend"] = reason
    else:
        address = stack.enter_context(serve_triton(MODELS, folder / "triton.txt"))
        servers["Triton, python backend"] = _Server(address)
    if reason := why_not_installed("mlserver"):
        absent["MLServer"] = reason
    else:
        for name, batching in (("MLServer", False), ("MLServer, batching", True)):
            address = stack.enter_context(serve_mlserver(folder / name.replace(", ", "-"), batching=batching))
            servers[name] = _Server(address)
    if reason := why_not_installed("kserve"):
        absent["KServe"] = reason
    else:
        address, within = stack.enter_context(serve_kserve(folder / "kserve"))
        servers["KServe"] = _Server(address, within)
    return servers, absent


def _figures(concurrency: int, taken: dict[str, Sample]) -> list[Figure]:
    name = f"{concurrency} concurrent"
    figures = [Figure(PART, f"{server}, {name}", "calls/s", sample) for server, sample in taken.items()]
    for peer, sample in taken.items():
        if peer != NEXTACT:
            target = Target("at least", LEAST[peer]) if concurrency in TARGETED else None
            figures.append(Figure(PART, f"nextact / {peer}, {name}", "", ratios(taken[NEXTACT], sample), target))
    return figures


def identity_message() -> bytes:
    """A request to the identity model: one row of 64 numbers, raw."""
    request = service_pb2.ModelInferRequest(model_name="identity")
    request.inputs.add(name="IN", datatype="FP32", shape=[1, 64])
    request.raw_input_contents.append(np.arange(64, dtype=np.float32).tobytes())
    return request.SerializeToString()
