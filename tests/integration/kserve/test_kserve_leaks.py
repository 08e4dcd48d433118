"""What stays behind: nothing in memory, in threads, in open files, in Python's own tables, or in the repository."""

import gc
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.event_makers import new_name
from support.kserve_calls import ECHO, HEAD, eventually, infer_request, load_request, loaded, outcome, pending, stub_of
from support.serving import PATIENCE, Serving, connect
from tritonclient.grpc import service_pb2 as pb

PROCESS = psutil.Process()
MIB = 1024 * 1024


def calls_of_all_kinds() -> list[tuple[str, Any, str]]:
    """Method, request and the status it ends with."""
    no_model = infer_request("nowhere")
    long_name = infer_request("x" * 2000)
    wrong_size = infer_request(raw=b"1")
    typed = infer_request(array=np.zeros((4, 64), np.float32))
    typed.inputs[0].contents.fp32_contents.extend([1.0] * 256)
    typed.ClearField("raw_input_contents")
    raising = infer_request("failing", np.zeros(1), datatype="BYTES", raw=b"\x05\0\0\0raise")
    unknown_region = pb.SystemSharedMemoryRegisterRequest(name="r", key="not_there_at_all", byte_size=4)
    return [
        ("ModelInfer", infer_request(array=np.ones((8, 64), np.float32), id="good"), "OK"),
        ("ModelInfer", typed, "OK"),
        ("ModelInfer", infer_request("diamond", np.ones((40, 64), np.float32)), "OK"),
        ("ModelInfer", raising, "INTERNAL"),
        ("ModelInfer", no_model, "NOT_FOUND"),
        ("ModelInfer", long_name, "NOT_FOUND"),
        ("ModelInfer", wrong_size, "INVALID_ARGUMENT"),
        ("ModelStatistics", pb.ModelStatisticsRequest(), "OK"),
        ("RepositoryIndex", pb.RepositoryIndexRequest(), "OK"),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="nowhere"), "NOT_FOUND"),
        ("SystemSharedMemoryRegister", unknown_region, "INTERNAL"),
    ]


def test_thousands_of_good_and_bad_calls_leave_nothing(kserve: Serving) -> None:
    stub = stub_of(kserve.channel)
    kinds = calls_of_all_kinds()

    def calls(count: int) -> None:
        for number in range(count):
            method, request, expected = kinds[number % len(kinds)]
            if method == "ModelInfer" and number % 3 == 0:
                request.id = str(number)
            assert outcome(lambda: getattr(stub, method)(request, timeout=PATIENCE))[0] == expected  # noqa: B023

    calls(1000)
    gc.collect()
    before = (PROCESS.memory_info().rss, threading.active_count(), PROCESS.num_fds())
    calls(5000)
    gc.collect()
    after = (PROCESS.memory_info().rss, threading.active_count(), PROCESS.num_fds())
    rss, threads, files = (now - then for now, then in zip(after, before, strict=True))
    print(f"rss {rss / MIB:+.1f} MiB, threads {threads:+d}, files {files:+d}")
    assert rss < 24 * MIB
    assert threads <= 2
    assert files <= 2


HELPED = "import helper\n" + ECHO.replace("request, ", "helper.same(request), ")


def test_a_python_model_reloaded_again_and_again_leaves_nothing(kserve: Serving) -> None:
    stub = stub_of(kserve.channel)
    name = f"reloaded-{new_name()}"

    def load() -> None:
        request = load_request(name, HELPED)
        request.parameters["file:1/helper.py"].bytes_param = b"def same(x): return x\n"
        stub.RepositoryModelLoad(request, timeout=PATIENCE)
        answer = stub.ModelInfer(infer_request(name, np.ones(2, np.float32)), timeout=PATIENCE)
        assert answer.raw_output_contents

    def tables() -> dict[str, int]:
        gc.collect()
        temporary = list(Path(tempfile.gettempdir()).glob("nextact-model-*"))
        return {
            "modules": len(sys.modules),
            "importers": len(sys.path_importer_cache),
            "finders": len(sys.meta_path),
            "threads": threading.active_count(),
            "files": PROCESS.num_fds(),
            "directories": len(temporary),
        }

    def idle() -> bool:
        return not any(thread.name.startswith("retire-") for thread in threading.enumerate())

    for _ in range(3):
        load()
    eventually(idle)
    before = tables()
    for _ in range(200):
        load()
    eventually(idle)
    after = tables()
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=PATIENCE)
    eventually(lambda: not any(name in thread.name for thread in threading.enumerate()))
    grown = {what: after[what] - before[what] for what in before}
    assert all(count <= 3 for count in grown.values()), grown


def test_nothing_is_written_to_the_repository(kserve: Serving, tensor_repository: Path) -> None:
    name = f"helped-{new_name()}"
    folder = tensor_repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(HEAD + HELPED)
    (folder / "1" / "helper.py").write_text("import deeper\ndef same(x): return x\n")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "__init__.py").write_text("from deeper import deepest\n")
    (folder / "deeper" / "deepest.py").write_text("")
    tensor = '[{ name: "%s" data_type: TYPE_FP32 dims: [ -1 ] }]'
    (folder / "config.pbtxt").write_text(f'backend: "python" input {tensor % "IN"} output {tensor % "OUT"}')
    before = sorted(folder.rglob("*"))
    stub = stub_of(kserve.channel)
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=PATIENCE)
    stub.ModelInfer(infer_request(name, np.ones(2, np.float32)), timeout=PATIENCE)
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=PATIENCE)
    assert sorted(folder.rglob("*")) == before


ALL_KINDS_OF_MODELS = {
    "plain": (ECHO, {}),
    "batching": (ECHO, {"max_batch_size": 8, "dynamic_batching": {"max_queue_delay_microseconds": 100}}),
    "awaited": (ECHO.replace("def execute", "async def execute"), {}),
    "several": (ECHO, {"instance_group": [{"count": 3, "kind": "KIND_CPU"}]}),
    "expiring": (ECHO, {"dynamic_batching": {"default_queue_policy": {"default_timeout_microseconds": 10**9}}}),
    "sequences": (
        ECHO,
        {
            "max_batch_size": 2,
            "sequence_batching": {
                "control_input": [
                    {"name": "START", "control": [{"kind": 0, "int32_false_true": [0, 1]}]},
                    {"name": "READY", "control": [{"kind": 1, "int32_false_true": [0, 1]}]},
                ]
            },
        },
    ),
}


@pytest.mark.parametrize("kind", ALL_KINDS_OF_MODELS)
def test_no_thread_of_an_unloaded_model_stays(kserve: Serving, kind: str) -> None:
    code, config = ALL_KINDS_OF_MODELS[kind]
    name = f"threads-{new_name()}"
    rows = (1,) if config.get("max_batch_size") else ()
    with loaded(kserve, name, code, **config):
        request = infer_request(name, np.ones((*rows, 2), np.float32))
        request.parameters["sequence_id"].int64_param = 5
        request.parameters["sequence_start"].bool_param = True
        assert outcome(lambda: stub_of(kserve.channel).ModelInfer(request, timeout=PATIENCE)) == ("OK", "")
        assert any(name in thread.name for thread in threading.enumerate())
    eventually(lambda: not [each.name for each in threading.enumerate() if name in each.name], "a thread stays")


# Loads against loads, and against requests ----------------------------------------------------------------------------


def test_no_request_fails_while_its_model_is_loaded_anew_again_and_again(kserve: Serving) -> None:
    name = f"hammered-{new_name()}"
    is_over, is_busy = threading.Event(), threading.Semaphore(0)

    def hammer() -> Counter[tuple[str, str]]:
        seen: Counter[tuple[str, str]] = Counter()
        with connect(kserve.target) as channel:
            stub = stub_of(channel)
            request = infer_request(name, np.ones((1, 2), np.float32))
            while not is_over.is_set():
                seen[outcome(lambda: stub.ModelInfer(request, timeout=PATIENCE))] += 1
                is_busy.release()
        return seen

    with loaded(kserve, name, max_batch_size=8, dynamic_batching={}), ThreadPoolExecutor(4) as pool:
        hammering = [pool.submit(hammer) for _ in range(4)]
        try:
            for size in range(9, 39):
                request = load_request(name, max_batch_size=size, dynamic_batching={})
                stub_of(kserve.channel).RepositoryModelLoad(request, timeout=PATIENCE)
                for _ in range(4):  # however slow the machine is, requests are answered between loads, and during them
                    assert is_busy.acquire(timeout=PATIENCE)
        finally:
            is_over.set()
        seen = sum((each.result() for each in hammering), Counter())
    assert set(seen) == {("OK", "")}
    assert seen.total() > 100


def test_loads_and_unloads_of_one_model_from_many_threads_end_in_order(kserve: Serving) -> None:
    name = f"contested-{new_name()}"
    load, unload = load_request(name), pb.RepositoryModelUnloadRequest(model_name=name)

    def contend(number: int) -> set[str]:
        with connect(kserve.target) as channel:
            stub = stub_of(channel)
            codes = set()
            for turn in range(10):
                if (number + turn) % 2:
                    codes.add(outcome(lambda: stub.RepositoryModelLoad(load, timeout=60))[0])
                else:
                    codes.add(outcome(lambda: stub.RepositoryModelUnload(unload, timeout=60))[0])
                code = outcome(lambda: stub.ModelInfer(infer_request(name, np.ones(2, np.float32)), timeout=60))[0]
                assert code in {"OK", "NOT_FOUND", "UNAVAILABLE"}
            return codes

    with ThreadPoolExecutor(8) as pool:
        codes = set().union(*pool.map(contend, range(8)))
    assert codes == {"OK"}
    with loaded(kserve, name):
        request = infer_request(name, np.ones(2, np.float32))
        assert outcome(lambda: stub_of(kserve.channel).ModelInfer(request, timeout=PATIENCE))[0] == "OK"
        assert pending(kserve, name) == 0
    eventually(lambda: not any(name in thread.name for thread in threading.enumerate()))


def test_a_model_under_requests_is_unloaded_and_each_of_them_answered_or_told(kserve: Serving) -> None:
    name = f"taken-{new_name()}"
    with loaded(kserve, name), connect(kserve.target) as channel:
        stub = stub_of(channel)
        request = infer_request(name, np.ones(2, np.float32))
        calls = [stub.ModelInfer.future(request, timeout=PATIENCE) for _ in range(500)]
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=PATIENCE)
        codes = Counter(outcome(call.result)[0] for call in calls)
    assert set(codes) <= {"OK", "NOT_FOUND", "UNAVAILABLE"}
