"""Members that give any number of responses."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from ensemble_house import House, ask, ensemble, floats, maps, model, opened, step, tensors

from nextact_server.inference.infer_errors import InferError, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse


def counts_up(request: InferRequest) -> None:
    """As many responses as its input says: 0, 1, ..."""
    for number in range(int(request.inputs["x"][0, 0])):
        request.respond(InferResponse({"y": request.inputs["x"] * 0 + number}), final=False)
    request.respond(None)


def house_of(answer_after: bool = True) -> House:
    house = House()
    house.add(model("many", tensors("x"), tensors("y"), decoupled=True), counts_up)
    house.add(model("after", tensors("x"), tensors("y")), maps(lambda x: {"y": x + 10}) if answer_after else None)
    return house


CHAIN = ensemble(["in"], ["out"], step("many", {"x": "in"}, {"y": "mid"}), step("after", {"x": "mid"}, {"y": "out"}))


def values(responses: list[tuple[InferResponse | InferError | None, bool]]) -> list[tuple[float | None, bool]]:
    found = []
    for response, final in responses:
        assert not isinstance(response, InferError)
        found.append((None if response is None else float(response.outputs["out"][0, 0]), final))
    return found


@pytest.mark.parametrize("count", [0, 1, 3])
def test_each_response_flows_through_what_follows(count: int) -> None:
    scheduler, statistics = opened(CHAIN, house_of())
    assert scheduler.decoupled
    _, sink = ask(scheduler, statistics, {"in": floats([count])})
    found = values(sink.responses)
    assert [value for value, _ in found if value is not None] == [10 + number for number in range(count)]
    assert [final for _, final in found] == [False] * (len(found) - 1) + [True]
    assert statistics.snapshot().execution_count == 1


def test_responses_keep_the_order_of_the_member_that_made_them() -> None:
    house = house_of(answer_after=False)
    scheduler, statistics = opened(CHAIN, house)
    _, sink = ask(scheduler, statistics, {"in": floats([3])})
    later = [request for name, request in house.asked if name == "after"]
    for request in reversed(later):
        maps(lambda x: {"y": x})(request)
    assert values(sink.responses) == [(0, False), (1, False), (2, True)]


def test_tensors_of_one_response_stay_together_through_steps_of_different_speed() -> None:
    house = house_of(answer_after=False)
    house.add(model("join", tensors("a", "b"), tensors("y")), maps(lambda a, b: {"y": a * 100 + b}))
    spec = ensemble(
        ["in"],
        ["out"],
        step("many", {"x": "in"}, {"y": "mid"}),
        step("after", {"x": "mid"}, {"y": "slow"}),
        step("join", {"a": "mid", "b": "slow"}, {"y": "out"}),
    )
    scheduler, statistics = opened(spec, house)
    _, sink = ask(scheduler, statistics, {"in": floats([2])})
    for request in reversed([request for name, request in house.asked if name == "after"]):
        maps(lambda x: {"y": x})(request)
    assert values(sink.responses) == [(0, False), (101, True)]


def test_a_decoupled_member_after_another_multiplies() -> None:
    house = house_of()
    spec = ensemble(["in"], ["out"], step("many", {"x": "in"}, {"y": "mid"}), step("many", {"x": "mid"}, {"y": "out"}))
    scheduler, statistics = opened(spec, house)
    _, sink = ask(scheduler, statistics, {"in": floats([4])})
    assert [value for value, _ in values(sink.responses) if value is not None] == [0, 0, 1, 0, 1, 2]
    assert [final for _, final in values(sink.responses)].index(True) == len(sink.responses) - 1


def test_a_failure_in_the_middle_is_the_last_that_is_said() -> None:
    house = house_of(answer_after=False)
    scheduler, statistics = opened(CHAIN, house)
    _, sink = ask(scheduler, statistics, {"in": floats([3])})
    first, second, third = (request for name, request in house.asked if name == "after")
    maps(lambda x: {"y": x})(first)
    second.respond(internal("no"))
    maps(lambda x: {"y": x})(third)
    assert len(sink.responses) == 2
    assert values(sink.responses[:1]) == [(0, False)]
    last, final = sink.responses[1]
    assert isinstance(last, InferError)
    assert final


def test_on_threads_every_response_comes_once_and_in_order() -> None:
    with ThreadPoolExecutor(8) as pool:
        house = house_of()
        house.pool = pool
        scheduler, statistics = opened(CHAIN, house)
        sinks = [ask(scheduler, statistics, {"in": floats([60])})[1] for _ in range(10)]
        for sink in sinks:
            assert sink.done.wait(20)
            found = values(sink.responses)
            assert [value for value, _ in found if value is not None] == [10 + number for number in range(60)]
            assert [final for _, final in found].count(True) == 1
            assert found[-1][1]
        scheduler.close()


def test_what_was_consumed_is_let_go_while_a_stream_goes_on() -> None:
    house = house_of()
    flows = []
    many: list[InferRequest] = []
    house.answers["many"] = many.append
    scheduler, statistics = opened(CHAIN, house)
    ask(scheduler, statistics, {"in": floats([1])})
    flows.extend(scheduler._running)
    for number in range(50):
        many[0].respond(InferResponse({"y": floats([number])}), final=False)
    assert not any(flows[0]._tensors.values())
    many[0].respond(None)
    scheduler.close()
