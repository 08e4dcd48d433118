"""Answers by response senders: decoupled models, and others that use them."""

import threading
from typing import Any

import pytest
from python_house import House, Sink, X, ask, execute, request_of

from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.repository.backends.python import instance as instance_module

OUT = "pb_utils.InferenceResponse([pb_utils.Tensor('OUT', np.array([{0}], np.float32))])"
RAISED = "Failed to process the request(s) for model 'd_0', message: ValueError: boom"


def test_responses_come_in_order_and_end_with_the_flag(house: House) -> None:
    model = house.decoupled("d", "sender.send(say(1)); sender.send(say(2)); sender.send(flags=FINAL)")
    sink = ask(model)
    assert sink.values() == [[1], [2], None]
    assert [final for _, final in sink.answers] == [False, False, True]


def test_the_last_response_may_carry_the_flag(house: House) -> None:
    sink = ask(house.decoupled("d", "sender.send(say(1)); sender.send(say(2), FINAL)"))
    assert [final for _, final in sink.wait()] == [False, True]


def test_a_thread_may_answer_after_execute_came_back(house: House) -> None:
    model = house.decoupled(
        "d",
        """
        def later():
            import json  # an import in a thread of the model's own
            module.GO.wait(10)
            sender.send(say(5), FINAL)
        import sys
        module = sys.modules[__name__]
        module.GO = threading.Event()
        threading.Thread(target=later, daemon=True).start()
        """,
    )
    sink = ask(model)
    assert sink.answers == []
    vars(__import__("sys").modules[type(model._model).__module__])["GO"].set()
    assert sink.value() == [5]


def test_errors_may_stand_among_responses(house: House) -> None:
    error = "pb_utils.InferenceResponse(error=pb_utils.TritonError('bad', pb_utils.TritonError.NOT_FOUND))"
    model = house.decoupled(
        "d", f"sender.send(say(1)); sender.send({error}); sender.send(say(2)); sender.send(flags=FINAL)"
    )
    sink = ask(model)
    assert sink.values() == [[1], "bad", [2], None]
    assert isinstance(sink.answers[1][0], InferError)
    assert sink.answers[1][0].code is ErrorCode.NOT_FOUND


def test_a_model_that_raises_fails_what_it_has_not_answered(house: House) -> None:
    model = house.decoupled(
        "d",
        """
        if request.request_id() == "boom":
            raise ValueError("boom")
        sender.send(say(1), FINAL if request.request_id() == "whole" else 0)
        """,
    )
    sinks = {name: Sink() for name in ("whole", "half", "boom", "later")}
    execute(model, [request_of(sink, id=name) for name, sink in sinks.items()])
    assert sinks["whole"].values() == [[1]]
    first, second = sinks["half"].values()
    assert first == [1]
    assert second.startswith(RAISED)
    assert sinks["boom"].value().startswith(RAISED)
    assert sinks["later"].value().startswith(RAISED)


def test_a_decoupled_model_that_returns_something_is_told_so(house: House) -> None:
    (message,) = ask(house.decoupled("d", "return []")).values()
    assert message.endswith("Python model 'd_0' is using the decoupled mode and the execute function must return None.")


@pytest.mark.parametrize(
    ("before", "call", "message"),
    [
        ("", "sender.send()", "Inference Response object must be provided when the response flags is set to zero."),
        ("", "sender.send(say(1), 7)", "Unable to send response. Unsupported flag provided."),
        (
            "sender.send(say(1), FINAL)",
            "sender.send(say(1))",
            "Unable to send response. Response sender has been closed.",
        ),
        (
            "sender.send(say(1), FINAL)",
            "sender.send(flags=1)",
            "Unable to send response. Response sender has been closed.",
        ),
    ],
)
def test_a_sender_that_is_used_wrongly_says_so(house: House, before: str, call: str, message: str) -> None:
    model = house.decoupled(
        "d",
        f"""
        {before}
        try:
            {call}
        except pb_utils.TritonModelException as error:
            TritonPythonModel.said = str(error)
        if not {bool(before)}:
            sender.send(flags=FINAL)
        """,
    )
    ask(model).wait()
    assert type(model._model).said == message


def test_a_request_has_one_sender_that_knows_whether_its_caller_left(house: House) -> None:
    model = house.decoupled(
        "d",
        "sender.send(say(request.get_response_sender() is sender, sender.is_cancelled(), request.is_cancelled()), 1)",
    )
    sink = Sink()
    request = request_of(sink)
    request.cancel()
    execute(model, [request])
    assert sink.value() == [1, 1, 1]


def test_a_coroutine_answers_beside_the_next_execute(house: House) -> None:
    code = """
    import asyncio
    class TritonPythonModel:
        async def execute(self, requests):
            for request in requests:
                sender = request.get_response_sender()
                if request.request_id() == "wait":
                    self.go = asyncio.Event()
                    await self.go.wait()
                elif request.request_id() == "boom":
                    raise ValueError("boom")
                else:
                    self.go.set()
                sender.send(flags=1)
    """
    model = house.load("d", code, decoupled=True)
    waits, frees, fails = ask(model, id="wait"), ask(model), ask(model, id="boom")
    assert waits.values() == frees.values() == [None]
    assert fails.value().startswith(RAISED)


@pytest.mark.parametrize("returned", ["None", "[None]", "[" + OUT.format(9) + "]"])
@pytest.mark.parametrize("flags", ["1", "0"])
def test_a_model_that_is_not_decoupled_may_answer_once_by_its_sender(house: House, returned: str, flags: str) -> None:
    model = house.model("m", f"requests[0].get_response_sender().send({OUT.format(5)}, {flags})\nreturn {returned}")
    sink = ask(model)
    assert sink.value() == [5]
    assert [final for _, final in sink.answers] == [True]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            OUT.format(1),
            OUT.format(2),
            "Unable to send response. Non-decoupled model cannot send more than one response.",
        ),
        (
            "",
            "flags=1",
            "Unable to send response. Non-decoupled model cannot send complete final before sending a response.",
        ),
    ],
)
def test_a_model_that_is_not_decoupled_may_not_answer_twice(
    house: House, first: str, second: str, message: str
) -> None:
    model = house.model(
        "m",
        f"""
        sender = requests[0].get_response_sender()
        if {bool(first)}:
            sender.send({first or "None"})
        try:
            sender.send({second})
        except pb_utils.TritonModelException as error:
            TritonPythonModel.said = str(error)
        return [{OUT.format(3)}]
        """,
    )
    ask(model).wait()
    assert type(model._model).said == message


def test_a_sender_that_was_made_and_not_used_leaves_the_answer_to_what_is_returned(house: House) -> None:
    model = house.model("m", f"self.s = [r.get_response_sender() for r in requests]\nreturn [{OUT.format(4)}]")
    assert ask(model).value() == [4]


def test_requests_that_were_answered_are_not_run_again_when_the_model_raises(house: House) -> None:
    model = house.model("m", f"requests[0].get_response_sender().send({OUT.format(1)}, 1)\nraise ValueError('boom')")
    sinks = [Sink(), Sink()]
    requests = [request_of(sink) for sink in sinks]
    execute(model, requests)
    assert sinks[0].values() == [[1]]
    assert "boom" in sinks[1].value()


def test_closing_waits_for_the_answers_that_are_still_to_come(house: House) -> None:
    model = house.decoupled(
        "d", "TritonPythonModel.senders = [*getattr(TritonPythonModel, 'senders', []), (sender, say)]"
    )
    sink = ask(model)
    sender, say = type(model._model).senders[0]
    closing = threading.Thread(target=house.close, args=(model,))
    closing.start()
    sender.send(say(1), 1)
    closing.join(10)
    assert not closing.is_alive()
    assert sink.value() == [1]


def test_closing_fails_what_is_never_answered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_module, "CLOSE_WAIT_S", 0.01)
    model = house.decoupled("d", "pass")
    sink = ask(model)
    assert sink.answers == []
    house.close(model)
    assert sink.value() == "model 'd' was unloaded before it answered"


def test_an_execute_that_is_blocked_holds_up_neither_closing_nor_other_models(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "CLOSE_WAIT_S", 0.01)
    gates: dict[str, Any] = {"began": threading.Event(), "go": threading.Event()}
    model = house.model("m", "self.gates['began'].set(); self.gates['go'].wait(10)\nreturn [None]")
    model._model.gates = gates
    finalized: list[int] = []
    model._model.finalize = lambda: finalized.append(1)
    blocked = threading.Thread(target=ask, args=(model,))
    blocked.start()
    assert gates["began"].wait(10)
    assert ask(house.model("o", f"return [{OUT.format(2)}]"), X).value() == [2]
    house.close(model)
    assert finalized == []
    gates["go"].set()
    blocked.join(10)
