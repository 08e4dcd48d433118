"""Requests through the steps of an ensemble."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ensemble_house import House, ask, ensemble, floats, maps, model, opened, step, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.inference.infer_errors import ErrorCode, internal
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.tensors import Tensor


def weighted(number: int, count: int) -> dict[str, float]:
    return {f"i{at}": (at + 1) * 0.5 + number for at in range(count)}


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[list[int], int]]:
    """Steps: which of the tensors before it each takes (0 is the input), and how many it makes."""
    steps: list[tuple[list[int], int]] = []
    tensor_count = 1
    for _ in range(draw(st.integers(1, 6))):
        taken = draw(st.lists(st.integers(0, tensor_count - 1), min_size=1, max_size=3))
        made = draw(st.integers(1, 2))
        steps.append((taken, made))
        tensor_count += made
    return steps


@settings(deadline=None, max_examples=60)
@given(graphs(), st.booleans(), st.randoms(use_true_random=False))
def test_any_graph_equals_its_direct_evaluation(graph: list[tuple[list[int], int]], threads: bool, random) -> None:  # type: ignore[no-untyped-def]
    house = House()
    steps = []
    expected: list[Tensor] = [floats([1, 2], [3, 4])]
    taken_by_steps: set[int] = set()
    for number, (taken, made) in enumerate(graph):
        weights = weighted(number, len(taken))
        inputs, outputs = tensors(*weights), tensors(*(f"o{at}" for at in range(made)))

        def compute(weights: dict[str, float] = weights, made: int = made, **given: Tensor) -> dict[str, Tensor]:
            total = sum(given[name] * weight for name, weight in weights.items())
            return {f"o{at}": np.float32(at + 1) * total for at in range(made)}

        house.add(model(f"m{number}", inputs, outputs), maps(compute))
        start = len(expected)
        steps.append(
            step(
                f"m{number}",
                {f"i{at}": f"t{source}" for at, source in enumerate(taken)},
                {f"o{at}": f"t{start + at}" for at in range(made)},
            )
        )
        results = compute(**{f"i{at}": expected[source] for at, source in enumerate(taken)})
        expected.extend(results[f"o{at}"] for at in range(made))
        taken_by_steps.update(taken)
    leaves = [number for number in range(1, len(expected)) if number not in taken_by_steps]
    random.shuffle(steps)
    spec = ensemble(["t0"], [f"t{number}" for number in leaves], *steps)
    asked = random.sample(leaves, random.randint(1, len(leaves)))
    with ThreadPoolExecutor(4) as pool:
        house.pool = pool if threads else None
        scheduler, statistics = opened(spec, house)
        names = [f"t{number}" for number in asked]
        _, sink = ask(scheduler, statistics, {"t0": expected[0]}, output_names=names)
        found = sink.outputs
        scheduler.close()
    assert list(found) == [f"t{number}" for number in leaves if number in asked]
    for number in asked:
        np.testing.assert_allclose(found[f"t{number}"], expected[number], rtol=1e-5)


def both(house: House) -> None:
    for name in ("left", "right"):
        house.add(model(name, tensors("x"), tensors("y")))
    house.add(model("join", tensors("a", "b"), tensors("y")), maps(lambda a, b: {"y": a + b}))


DIAMOND = ensemble(
    ["in"],
    ["out"],
    step("join", {"a": "l", "b": "r"}, {"y": "out"}),
    step("left", {"x": "in"}, {"y": "l"}),
    step("right", {"x": "in"}, {"y": "r"}),
)


def answer(request: InferRequest, value: Tensor) -> None:
    request.respond(InferResponse({"y": value}))


def test_steps_run_side_by_side_and_start_as_soon_as_their_inputs_are_there() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    assert sorted(name for name, _ in house.asked) == ["left", "right"]
    answer(house.of("right"), floats([10]))
    assert len(house.asked) == 2
    answer(house.of("left"), floats([5]))
    assert sink.outputs == {"out": [[15]]}


def test_steps_that_lead_to_nothing_asked_for_do_not_run() -> None:
    house = House()
    house.add(model("a", tensors("x"), tensors("y")), maps(lambda x: {"y": x + 1}))
    house.add(model("b", tensors("x"), tensors("y")), maps(lambda x: {"y": x + 2}))
    spec = ensemble(["in"], ["one", "two"], step("a", {"x": "in"}, {"y": "one"}), step("b", {"x": "in"}, {"y": "two"}))
    scheduler, statistics = opened(spec, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])}, output_names=["two", "two"])
    assert sink.outputs == {"two": [[3]]}
    assert [name for name, _ in house.asked] == ["b"]


def test_members_see_what_the_request_says_of_itself() -> None:
    house = House()
    house.add(model("a", tensors("x"), tensors("y", "z")), maps(lambda x: {"y": x, "z": x}))
    spec = ensemble(["in"], ["out"], step("a", {"x": "in"}, {"y": "mid"}), step("a", {"x": "mid"}, {"z": "out"}))
    scheduler, statistics = opened(spec, house)
    said = {"id": "r", "parameters": {"p": 1}, "priority": 2, "timeout_us": 5}
    sequence = {"correlation_id": "ada", "sequence_start": True, "sequence_end": False}
    _, sink = ask(scheduler, statistics, {"in": floats([1])}, **said, **sequence)
    assert sink.outputs == {"out": [[1]]}
    for (_, request), outputs in zip(house.asked, (("y",), ("z",)), strict=True):
        assert {name: getattr(request, name) for name in (*said, *sequence)} == said | sequence
        assert request.output_names == outputs
        assert request.batch_size == 1
    ((response, _),) = sink.responses
    assert isinstance(response, InferResponse)
    assert response.parameters == {"sequence_id": "ada", "sequence_start": True, "sequence_end": False}


def test_a_response_may_move_what_follows_into_another_sequence() -> None:
    house = House()
    house.add(
        model("a", tensors("x"), tensors("y")),
        lambda request: request.respond(InferResponse({"y": request.inputs["x"]}, {"sequence_id": 9})),
    )
    house.add(model("b", tensors("x"), tensors("y")), maps(lambda x: {"y": x}))
    spec = ensemble(["in"], ["out"], step("a", {"x": "in"}, {"y": "mid"}), step("b", {"x": "mid"}, {"y": "out"}))
    scheduler, statistics = opened(spec, house)
    ask(scheduler, statistics, {"in": floats([1])}, correlation_id=4, sequence_start=True)
    assert (house.of("a").correlation_id, house.of("a").sequence_start) == (4, True)
    assert (house.of("b").correlation_id, house.of("b").sequence_start) == (9, False)


def test_optional_inputs_and_outputs_left_out_reach_members_that_can_do_without() -> None:
    house = House()
    optional = (*tensors("x"), *tensors("o", optional=True))
    house.add(model("a", optional, tensors("y", "extra")), maps(lambda x, o=None: {"y": x if o is None else x + o}))
    spec = ensemble(
        ["in", "more"],
        ["out"],
        step("a", {"x": "in", "o": "more"}, {"y": "mid", "extra": "none"}),
        step("a", {"x": "mid", "o": "none"}, {"y": "out"}),
    )
    scheduler, statistics = opened(spec, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    assert sink.outputs == {"out": [[1]]}
    _, sink = ask(scheduler, statistics, {"in": floats([1]), "more": floats([2])})
    assert sink.outputs == {"out": [[3]]}


@pytest.mark.parametrize(
    ("outer", "inner", "dims", "given", "inside", "back"),
    [
        (8, 0, (-1,), [[1, 2]], (2,), [[1, 2]]),
        (8, 0, (-1, -1), [[1, 2], [3, 4]], (2, 2), [[1, 2], [3, 4]]),
        (0, 8, (-1,), [1, 2], (1, 2), [1, 2]),
        (8, 8, (-1,), [[1, 2], [3, 4]], (2, 2), [[1, 2], [3, 4]]),
    ],
    ids=["one row to a model without batches", "rows as its own axis", "a row for a model with batches", "both"],
)
def test_models_with_and_without_batches_meet(  # type: ignore[no-untyped-def]
    outer: int, inner: int, dims: tuple[int, ...], given, inside: tuple[int, ...], back
) -> None:
    house = House()
    sides = tensors("x", dims=dims), tensors("y", dims=dims)
    house.add(model("a", *sides, max_batch_size=inner), maps(lambda x: {"y": x}))
    scheduler, statistics = opened(
        ensemble(["in"], ["out"], step("a", {"x": "in"}, {"y": "out"}), max_batch_size=outer), house
    )
    array = np.array(given, np.float32)
    _, sink = ask(scheduler, statistics, {"in": array}, batch_size=len(given) if outer else 1)
    assert sink.outputs == {"out": back}
    assert house.of("a").inputs["x"].shape == inside
    assert house.of("a").batch_size == (inside[0] if inner else 1)


def test_a_failing_member_answers_once_and_the_rest_is_cancelled() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    refusal = internal("no")
    refusal.retry_after_s = 2.0
    house.of("left").respond(refusal)
    assert house.of("right").is_cancelled
    answer(house.of("right"), floats([1]))
    assert sink.error.code is ErrorCode.INTERNAL
    assert sink.error.message == "in ensemble 'ens', no"
    assert sink.error.retry_after_s == 2.0
    assert len(house.asked) == 2
    scheduler.close()


def test_both_members_failing_is_one_answer() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    house.of("right").respond(internal("right"))
    house.of("left").respond(internal("left"))
    assert sink.error.message == "in ensemble 'ens', right"


def test_a_member_that_is_gone_fails_the_request_and_not_the_server() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    del house.specs["join"]
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    answer(house.of("left"), floats([1]))
    answer(house.of("right"), floats([1]))
    assert sink.error.code is ErrorCode.NOT_FOUND
    assert sink.error.message == "in ensemble 'ens', Request for unknown model: 'join' is not found"


def test_cancelling_reaches_the_members_that_run_and_starts_no_more() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    request, sink = ask(scheduler, statistics, {"in": floats([1])})
    request.cancel()
    assert house.of("left").is_cancelled
    assert house.of("right").is_cancelled
    answer(house.of("left"), floats([1]))
    answer(house.of("right"), floats([1]))
    assert len(house.asked) == 2
    assert sink.error.code is ErrorCode.CANCELLED


def test_a_member_that_gives_nothing_is_a_deadlock_and_is_told() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])}, id="r")
    house.of("left").respond(None)
    answer(house.of("right"), floats([1]))
    assert sink.error.code is ErrorCode.INVALID_ARG
    assert sink.error.message == (
        "in ensemble 'ens', [request id: r] unexpected deadlock, at least one output is not set while no more ensemble "
        "steps can be made"
    )


def test_its_times_are_the_sums_of_its_members_and_it_never_waits() -> None:
    house = House()
    house.add(model("a", tensors("x"), tensors("y")), maps(lambda x: {"y": x}))
    house.add(model("held", tensors("x"), tensors("y")))
    spec = ensemble(["in"], ["out"], step("a", {"x": "in"}, {"y": "mid"}), step("held", {"x": "mid"}, {"y": "out"}))
    scheduler, statistics = opened(spec, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1], [2])})
    assert statistics.snapshot().pending == 0
    maps(lambda x: {"y": x})(house.of("held"))
    assert sink.outputs == {"out": [[1], [2]]}
    counts = statistics.snapshot()
    assert (counts.inference_count, counts.execution_count, counts.pending) == (2, 1, 0)
    assert (counts.compute_input.ns, counts.compute_infer.ns, counts.compute_output.ns) == (2, 4, 6)
    _, failed = ask(scheduler, statistics, {"in": floats([1])})
    house.asked[-1][1].respond(internal("no"))
    assert failed.error
    assert statistics.snapshot().execution_count == 1
    assert statistics.snapshot().pending == 0


def test_closing_waits_for_what_runs_and_refuses_what_comes() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(scheduler.close)
        answer(house.of("left"), floats([1]))
        assert not closing.done()
        answer(house.of("right"), floats([1]))
        closing.result(10)
    assert sink.outputs
    _, late = ask(scheduler, statistics, {"in": floats([1])})
    assert late.error.code is ErrorCode.UNAVAILABLE


def test_closing_without_draining_refuses_what_runs() -> None:
    house = House()
    both(house)
    scheduler, statistics = opened(DIAMOND, house)
    _, sink = ask(scheduler, statistics, {"in": floats([1])})
    scheduler.close(drain=False)
    assert sink.error.code is ErrorCode.UNAVAILABLE
    assert house.of("left").is_cancelled


def test_many_at_once_on_threads_are_each_answered_once() -> None:
    house = House()
    house.add(model("left", tensors("x"), tensors("y")), maps(lambda x: {"y": x + 1}))
    house.add(model("right", tensors("x"), tensors("y")), maps(lambda x: {"y": x * 2}))
    house.add(model("join", tensors("a", "b"), tensors("y")), maps(lambda a, b: {"y": a + b}))
    with ThreadPoolExecutor(8) as pool:
        house.pool = pool
        scheduler, statistics = opened(DIAMOND, house)
        sinks = [ask(scheduler, statistics, {"in": floats([value])})[1] for value in range(300)]
        assert [sink.outputs for sink in sinks] == [{"out": [[3 * value + 1]]} for value in range(300)]
        scheduler.close()
    assert statistics.snapshot().execution_count == 300
