"""Models that raise, answer nonsense, leave or block: their own callers hear of it, and nobody else is harmed."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.event_makers import new_name
from support.kserve_calls import ECHO, eventually, infer_request, load_request, loaded, outcome, pending, stub_of
from support.model_gates import Gate, gate
from support.serving import PATIENCE, Serving
from tritonclient.grpc import service_pb2 as pb

BEGIN = "class TritonPythonModel:\n"
EXECUTE = "    def execute(self, requests):\n"
ANSWER = "        return [pb_utils.InferenceResponse({}) for _ in requests]\n"

BROKEN_LOADS = {
    "syntax": "class X(:\n",
    "raises at import": "raise RuntimeError('told to')\n" + ECHO,
    "leaves at import": "import sys\nsys.exit(3)\n" + ECHO,
    "interrupts at import": "raise KeyboardInterrupt\n" + ECHO,
    "no class": "x = 1\n",
    "raises when made": ECHO + "    def __init__(self):\n        raise ValueError('told to')\n",
    "raises in initialize": ECHO + "    def initialize(self, args):\n        raise ValueError('told to')\n",
    "leaves in initialize": ECHO + "    def initialize(self, args):\n        raise SystemExit(3)\n",
    "no end in initialize": ECHO + "    def initialize(self, args):\n        self.initialize(args)\n",
    "no text in initialize": ECHO + "    def initialize(self, args):\n        raise ValueError('\\udc80')\n",
    "raises in auto_complete_config": ECHO
    + "    def auto_complete_config(config):\n        raise ValueError('told to')\n",
    "answers nonsense in auto_complete_config": ECHO + "    def auto_complete_config(config):\n        return 3\n",
}


@pytest.mark.parametrize("kind", BROKEN_LOADS)
def test_a_model_that_cannot_be_loaded_says_why(kserve: Serving, kind: str) -> None:
    stub = stub_of(kserve.channel)
    with loaded(kserve, "good_at_first") as model:
        request = load_request(model, BROKEN_LOADS[kind])
        code, text = outcome(lambda: stub.RepositoryModelLoad(request, timeout=PATIENCE))
        assert (code, model in text) == ("INVALID_ARGUMENT", True)
        assert "Traceback" not in text
        assert "told to" in text or "told to" not in BROKEN_LOADS[kind]
        assert (
            outcome(lambda: stub.ModelInfer(infer_request(model, np.ones(2, np.float32)), timeout=PATIENCE))[0] == "OK"
        )
        (line,) = [line for line in stub.RepositoryIndex(pb.RepositoryIndexRequest()).models if line.name == model]
        assert (line.state, bool(line.reason)) == ("READY", True)


BROKEN_EXECUTES = {
    "raises": EXECUTE + "        raise ValueError('told to')\n",
    "leaves": EXECUTE + "        raise SystemExit(3)\n",
    "interrupts": EXECUTE + "        raise KeyboardInterrupt\n",
    "has no memory": EXECUTE + "        raise MemoryError\n",
    "raises no text": EXECUTE + "        raise ValueError('\\udc80')\n",
    "raises what has no text": EXECUTE + "        raise type('E', (Exception,), {'__str__': lambda self: 3})\n",
    "raises a book": EXECUTE + "        raise ValueError('told to' + 10_000_000 * 'é')\n",
    "answers nothing": EXECUTE + "        return None\n",
    "answers a number": EXECUTE + "        return 3\n",
    "answers too little": EXECUTE + "        return []\n",
    "answers too much": EXECUTE + "        return [pb_utils.InferenceResponse()] * 9\n",
    "answers numbers": EXECUTE + "        return [3 for _ in requests]\n",
    "answers bit by bit": EXECUTE + "        yield 3\n",
    "answers no text": EXECUTE + ANSWER.format("[pb_utils.Tensor('OUT', np.array(['\\udc80'], object))]"),
    "answers complex numbers": EXECUTE + ANSWER.format("[pb_utils.Tensor('OUT', np.zeros(3, complex))]"),
    "answers more than there is memory": EXECUTE
    + ANSWER.format("[pb_utils.Tensor('OUT', np.broadcast_to(np.float32(0), (2**44,)))]"),
    "says a number that is too large": EXECUTE + ANSWER.format("[], parameters={'a': 2**63}"),
    "says no text": EXECUTE + ANSWER.format("[], parameters={'a': '\\udc80'}"),
    "has no execute": "    pass\n",
    "raises, awaited": "    async def execute(self, requests):\n        raise ValueError('told to')\n",
    "leaves, awaited": "    async def execute(self, requests):\n        raise SystemExit(3)\n",
    "is cancelled, awaited": "    async def execute(self, requests):\n        import asyncio\n"
    "        raise asyncio.CancelledError\n",
}


@pytest.mark.parametrize("kind", BROKEN_EXECUTES)
def test_a_model_that_fails_tells_its_callers_each_time(kserve: Serving, kind: str) -> None:
    stub = stub_of(kserve.channel)
    with loaded(kserve, "broken", BEGIN + BROKEN_EXECUTES[kind]) as model:
        for _ in range(2):
            request = infer_request(model, np.ones(2, np.float32))
            code, text = outcome(lambda request=request: stub.ModelInfer(request, timeout=PATIENCE))
            assert (code, "Traceback" in text, len(text.encode()) < 8192) == ("INTERNAL", False, True)
            assert "told to" in text or "told to" not in BROKEN_EXECUTES[kind]
        assert pending(kserve, model) == 0


UNRULY_LOOPS = {
    "a task of it leaves": "        async def leave():\n            raise SystemExit(3)\n"
    "        task = asyncio.get_running_loop().create_task(leave())\n        await asyncio.wait([task])\n",
    "it stops its loop": "        asyncio.get_running_loop().stop()\n        await asyncio.sleep(0)\n",
}


@pytest.mark.parametrize("kind", UNRULY_LOOPS)
def test_the_event_loop_of_a_model_outlives_what_its_code_does_to_it(kserve: Serving, kind: str) -> None:
    stub = stub_of(kserve.channel)
    code = "import asyncio\n" + ECHO.replace("def execute", "async def execute").replace(
        "(self, requests):\n", "(self, requests):\n" + UNRULY_LOOPS[kind]
    )
    with loaded(kserve, "unruly", code) as model:
        for _ in range(2):
            request = infer_request(model, np.ones(2, np.float32))
            assert outcome(lambda request=request: stub.ModelInfer(request, timeout=PATIENCE)) == ("OK", "")


def test_an_error_with_a_code_of_the_model_s_own_goes_to_the_caller_as_text_of_any_kind(kserve: Serving) -> None:
    error = "error=pb_utils.TritonError('\\udc80 told to', pb_utils.TritonError.NOT_FOUND)"
    with loaded(kserve, "wordy", BEGIN + EXECUTE + ANSWER.format(error)) as model:
        request = infer_request(model, np.ones(2, np.float32))
        answer = outcome(lambda: stub_of(kserve.channel).ModelInfer(request, timeout=PATIENCE))
        assert answer == ("NOT_FOUND", "? told to")


# Models that block ----------------------------------------------------------------------------------------------------

STUCK = """
from support.model_gates import gate
class TritonPythonModel:
    def initialize(self, args):
        self.gate = gate(args["model_name"])
    def execute(self, requests):
        for request in requests:
            value = float(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0])
            self.gate.seen.append(value)
            if value < 0:
                self.gate.wait()
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.zeros(1, np.float32))]) for _ in requests]
"""
STUCK_AT_LOAD = (
    ECHO
    + """
    def initialize(self, args):
        from support.model_gates import gate
        gate(args["model_name"]).wait()
"""
)
STUCK_NUMBER = np.full(1, -1, np.float32)


@pytest.fixture
def stuck_gate() -> Iterator[tuple[str, Gate]]:
    """A name for a model, and the gate it stops at."""
    name = f"stuck_{new_name()}"
    yield name, gate(name)
    gate(name).open()


def number(model: str, value: float) -> pb.ModelInferRequest:
    return infer_request(model, np.full(1, value, np.float32))


def test_a_blocked_model_holds_up_nobody_else_and_what_expires_behind_it_never_runs(
    kserve: Serving, stuck_gate: tuple[str, Gate]
) -> None:
    model, stops = stuck_gate
    stub = stub_of(kserve.channel)
    with loaded(kserve, model, STUCK):
        first = stub.ModelInfer.future(number(model, -1), timeout=PATIENCE)
        assert stops.reached.wait(PATIENCE)
        behind = stub.ModelInfer.future(number(model, 5), timeout=0.1)
        assert outcome(behind.result)[0] == "DEADLINE_EXCEEDED"
        eventually(lambda: pending(kserve, model) == 1, "what expired still waits")
        assert outcome(lambda: stub.ModelInfer(infer_request(), timeout=PATIENCE))[0] == "OK"
        last = stub.ModelInfer.future(number(model, 6), timeout=PATIENCE)
        stops.open()
        assert [outcome(call.result)[0] for call in (first, last)] == ["OK", "OK"]
        assert stops.seen == [-1, 6]


def test_the_caller_of_a_blocked_model_is_let_go_by_its_deadline(kserve: Serving, stuck_gate: tuple[str, Gate]) -> None:
    model, stops = stuck_gate
    with loaded(kserve, model, STUCK):
        stub = stub_of(kserve.channel)
        assert outcome(lambda: stub.ModelInfer(number(model, -1), timeout=0.2))[0] == "DEADLINE_EXCEEDED"
        stops.open()
        assert outcome(lambda: stub.ModelInfer(number(model, 1), timeout=PATIENCE))[0] == "OK"
        assert pending(kserve, model) == 0


def test_a_blocked_model_is_unloaded_at_once_and_loaded_anew(kserve: Serving, stuck_gate: tuple[str, Gate]) -> None:
    model, stops = stuck_gate
    stub = stub_of(kserve.channel)
    with loaded(kserve, model, STUCK):
        stuck = stub.ModelInfer.future(number(model, -1), timeout=PATIENCE)
        assert stops.reached.wait(PATIENCE)
        unload = pb.RepositoryModelUnloadRequest(model_name=model)
        assert outcome(lambda: stub.RepositoryModelUnload(unload, timeout=5))[0] == "OK"
        assert outcome(lambda: stub.ModelInfer(number(model, 1), timeout=PATIENCE))[0] in {"NOT_FOUND", "UNAVAILABLE"}
        stub.RepositoryModelLoad(load_request(model, STUCK), timeout=PATIENCE)
        assert outcome(lambda: stub.ModelInfer(number(model, 2), timeout=PATIENCE))[0] == "OK"
        assert not stuck.done()
        stops.open()
        assert outcome(stuck.result)[0] == "OK"
    eventually(lambda: not any(model in thread.name for thread in threading.enumerate()), "a thread stays")


def test_loads_that_block_hold_up_neither_other_loads_nor_unloads_nor_the_index(
    kserve: Serving, stuck_gate: tuple[str, Gate]
) -> None:
    model, _ = stuck_gate
    stub = stub_of(kserve.channel)
    names = [model, *(f"{model}_{n}" for n in range(5))]
    loads = [stub.RepositoryModelLoad.future(load_request(name, STUCK_AT_LOAD), timeout=PATIENCE) for name in names]
    try:
        assert all(gate(name).reached.wait(PATIENCE) for name in names)
        states = {line.name: line.state for line in stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=5).models}
        assert {states[name] for name in names} == {"LOADING"}
        assert outcome(lambda: stub.ModelInfer(number(model, 1), timeout=5))[0] in {"NOT_FOUND", "UNAVAILABLE"}
        with loaded(kserve, "meanwhile"):
            assert outcome(lambda: stub.ModelInfer(number("meanwhile", 1), timeout=5))[0] == "OK"
        impatient = pb.RepositoryModelUnloadRequest(model_name=model)
        assert outcome(lambda: stub.RepositoryModelUnload(impatient, timeout=0.2))[0] == "DEADLINE_EXCEEDED"
    finally:
        for name in names:
            gate(name).open()
    assert {outcome(load.result)[0] for load in loads} == {"OK"}
    for name in names:
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=PATIENCE)


def test_a_model_whose_new_load_blocks_serves_as_before(kserve: Serving, stuck_gate: tuple[str, Gate]) -> None:
    model, stops = stuck_gate
    stub = stub_of(kserve.channel)
    with loaded(kserve, model):
        load = stub.RepositoryModelLoad.future(load_request(model, STUCK_AT_LOAD), timeout=PATIENCE)
        assert stops.reached.wait(PATIENCE)
        assert outcome(lambda: stub.ModelInfer(number(model, 1), timeout=PATIENCE))[0] == "OK"
        stops.open()
        assert outcome(load.result)[0] == "OK"


def test_a_blocked_model_of_an_ensemble_is_unloaded_with_it_after_a_while(
    kserve: Serving, stuck_gate: tuple[str, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextact_server.repository.lifecycle.UNLOAD_WAIT_S", 0.2)
    model, stops = stuck_gate
    stub = stub_of(kserve.channel)
    step = {"model_name": model, "model_version": -1, "input_map": {"IN": "IN"}, "output_map": {"OUT": "OUT"}}
    whole = {"platform": "ensemble", "backend": "", "ensemble_scheduling": {"step": [step]}}
    with loaded(kserve, model, STUCK), loaded(kserve, f"of_{model}", **whole) as ensemble:
        call = stub.ModelInfer.future(number(ensemble, -1), timeout=PATIENCE)
        assert stops.reached.wait(PATIENCE)
        unload = pb.RepositoryModelUnloadRequest(model_name=model)
        assert outcome(lambda: stub.RepositoryModelUnload(unload, timeout=5))[0] == "OK"
        assert not stub.ModelReady(pb.ModelReadyRequest(name=ensemble)).ready
        stops.open()
        assert outcome(call.result)[0] == "OK"


@pytest.mark.parametrize("way", ["executed", "loaded", "reloaded"])
def test_a_server_stops_though_a_model_blocks(
    start_kserve: Any, stuck_gate: tuple[str, Gate], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("nextact_server.repository.lifecycle.CLOSE_WAIT_S", 0.5)
    model, stops = stuck_gate
    server: Serving = start_kserve(drain_seconds=0.2)
    stub = stub_of(server.channel)
    if way == "reloaded":
        stub.RepositoryModelLoad(load_request(model), timeout=PATIENCE)
    if way == "executed":
        stub.RepositoryModelLoad(load_request(model, STUCK), timeout=PATIENCE)
        call = stub.ModelInfer.future(number(model, -1), timeout=PATIENCE)
    else:
        call = stub.RepositoryModelLoad.future(load_request(model, STUCK_AT_LOAD), timeout=PATIENCE)
    try:
        assert stops.reached.wait(PATIENCE)
        server.begin_stop().result(PATIENCE)  # type: ignore[call-arg]
        assert outcome(call.result)[0] == "UNAVAILABLE"
    finally:
        stops.open()
    eventually(lambda: not any(model in thread.name for thread in threading.enumerate()), "a thread stays")
