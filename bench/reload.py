"""New versions of a model taking over under load: no request may fail, and the slowest hundredth hardly be slower."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpcclient

from bench.figures import Figure, Target, percentile, ratios, sample
from bench.identity import MODELS, identity_message
from bench.plan import Plan
from bench.processes import Worker, nextact_server, worker

__all__ = ["measure"]

Told = dict[str, Any]
"""What the worker says of a round."""
PART = "Reload"
MODEL = "identity"
CONCURRENCY = 8
CALLS = 12_000
LOADS = 5
"""New versions in a round."""
PAUSE_S = 0.1


def measure(plan: Plan) -> list[Figure]:
    """The 99th percentile of latency while versions are loaded and swapped, against that of a quiet round before."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextact-reload-")))
        shutil.copytree(MODELS / MODEL, folder / MODEL)
        settings = {"tensor-repository": str(folder), "model-control-mode": "explicit", "load-model": "*"}
        served = stack.enter_context(nextact_server(plan.repository, settings))
        load = stack.enter_context(worker("infer_worker"))
        client = stack.enter_context(grpcclient.InferenceServerClient(served.grpc))
        quiet: list[float] = []
        switching: list[float] = []
        failed = overlapped = 0
        versions = _Versions(client, folder / MODEL)
        for number in range(plan.rounds + 1):
            plan.say(f"round {number}: {LOADS} new versions under {CONCURRENCY} concurrent callers")
            calm = _round(load, served.grpc, plan.size(CALLS, 4000))
            busy, windows = versions.during(lambda: _round(load, served.grpc, plan.size(CALLS, 4000)))
            if number:  # the first round only warms up
                met = [
                    latency
                    for start, latency in zip(busy["starts"], busy["latencies"], strict=True)
                    if any(start <= end and begin <= start + latency for begin, end in windows)
                ]
                failed += calm["failed"] + busy["failed"]
                overlapped += len(met)
                quiet.append(1e3 * percentile(calm["latencies"], 99))
                switching.append(1e3 * percentile(met, 99))
    before, during = sample(quiet), sample(switching)
    return [
        Figure(PART, "failed requests", "", sample([failed]), Target("at most", 0), f"{overlapped} met a switch"),
        Figure(PART, "p99 before", "ms", before, None, f"{CONCURRENCY} concurrent callers, closed loop"),
        Figure(PART, "p99 of requests that met a switch", "ms", during),
        Figure(PART, "p99 during the switch / before", "ratio", ratios(during, before), Target("at most", 2.0)),
    ]


class _Versions:
    """Adds a version, has it loaded, and notes when: from the request to load until the old version is gone."""

    def __init__(self, client: grpcclient.InferenceServerClient, model: Path) -> None:
        self._client = client
        self._model = model
        self._latest = 1

    def during(self, run: Callable[[], Told]) -> tuple[Told, list[tuple[float, float]]]:
        """Runs something while versions change; its result, and the windows of `time.perf_counter`."""
        windows: list[tuple[float, float]] = []
        thread = threading.Thread(target=self._change, args=(windows,))
        thread.start()
        result = run()
        thread.join()
        return result, windows

    def _change(self, windows: list[tuple[float, float]]) -> None:
        for _ in range(LOADS):
            time.sleep(PAUSE_S)
            old, self._latest = self._latest, self._latest + 1
            shutil.copytree(self._model / str(old), self._model / str(self._latest))
            begun = time.perf_counter()
            self._client.load_model(MODEL)
            assert self._client.is_model_ready(MODEL, str(self._latest))
            windows.append((begun, time.perf_counter()))
            shutil.rmtree(self._model / str(old))


def _round(load: Worker, target: str, calls: int) -> Told:
    return load.ask(target=target, message=identity_message().hex(), calls=calls, warm_up=200, concurrency=CONCURRENCY)
