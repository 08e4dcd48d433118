"""Predict with one event over a catalogue item, beside empty handlers that answer the same messages."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import grpc

from bench import h2load
from bench.figures import Figure, Sample, Target, alternate, percentile, ratios, sample
from bench.load_worker import PATH
from bench.messages import movie_titles, predict_message
from bench.metrics import batches_of
from bench.plan import Plan
from bench.processes import Worker, cpu_seconds, nextact_server, register, worker

__all__ = ["measure"]

PART = "Predict"
MODEL = "next_action"
CONCURRENCIES = (1, 8, 32)
SCORES = ("EMBEDDING", "ACTIONS")
RANKED = (*SCORES, "ITEMS")
USERS = 20_000
FULL_CALLS = {1: 400, 8: 1500, 32: 5000}
"""Calls in one round of about a second."""


@dataclass(slots=True)
class _Runner:
    """Sends rounds of calls to one server and keeps what is told of them. No event is ever sent twice."""

    load: Worker
    target: str
    pid: int
    outputs: tuple[str, ...]
    is_real: bool
    counter: list[int]
    latencies: dict[int, list[float]] = field(default_factory=dict)
    server_cpu: dict[int, list[float]] = field(default_factory=dict)
    client_cpu: dict[int, list[float]] = field(default_factory=dict)
    batches: dict[int, list[float]] = field(default_factory=dict)
    metrics: str = ""

    def round(self, concurrency: int, calls: int) -> float:
        """Calls per second of one round. Raises RuntimeError if any call failed or was not a new event."""
        warm_up = max(20, calls // 20)
        self.counter[0] += warm_up + calls
        before = cpu_seconds(self.pid)
        batches = batches_of(self.metrics, MODEL) if self.metrics else (0.0, 0.0)
        done = self.load.ask(
            target=self.target,
            calls=calls,
            warm_up=warm_up,
            concurrency=concurrency,
            first=self.counter[0] - warm_up - calls,
            users=USERS,
            outputs=self.outputs,
            check=self.is_real,
        )
        every = warm_up + calls
        self.server_cpu.setdefault(concurrency, []).append(1e6 * (cpu_seconds(self.pid) - before) / every)
        self.client_cpu.setdefault(concurrency, []).append(1e6 * done["client_cpu"] / every)
        if done["failed"] or (self.is_real and done["outcomes"] != {"ACCEPTED": calls}):
            raise RuntimeError(f"{done['failed']} of {calls} calls failed; events became {done['outcomes']}")
        if self.metrics:
            count, events = batches_of(self.metrics, MODEL)
            self.batches.setdefault(concurrency, []).append((events - batches[1]) / (count - batches[0]))
        self.latencies.setdefault(concurrency, []).extend(done["latencies"])
        return calls / float(done["seconds"])

    def facts(self, concurrency: int) -> dict[str, float]:
        """Latency and CPU per call at one concurrency."""
        latencies = self.latencies[concurrency]
        told = {
            "p50_ms": 1e3 * percentile(latencies, 50),
            "p99_ms": 1e3 * percentile(latencies, 99),
            "server_cpu_us_per_call": sample(self.server_cpu[concurrency]).median,
            "client_cpu_us_per_call": sample(self.client_cpu[concurrency]).median,
        }
        if self.metrics:
            told["events_per_step"] = sample(self.batches[concurrency]).median
        return told


def measure(plan: Plan) -> list[Figure]:
    """Calls per second at each concurrency, of nextact and of both empty handlers, in turn."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        plan.say("starting a server, registering 1,000 items")
        served = stack.enter_context(nextact_server(plan.repository))
        items = movie_titles(1000)
        register(served.grpc, items)
        answer = _one_call(served.grpc, predict_message(0, "first", next(iter(items)), SCORES))
        servers: dict[str, tuple[str, int]] = {"nextact": (served.grpc, served.pid)}
        for kind in ("native", "aio"):
            empty = stack.enter_context(worker("empty_server", kind, answer.hex()))
            servers[kind] = f"127.0.0.1:{empty.read()['port']}", empty.pid
        load = stack.enter_context(worker("load_worker"))
        counter = [1]
        runners = {
            name: _Runner(load, target, pid, SCORES, name == "nextact", counter)
            for name, (target, pid) in servers.items()
        }
        runners["nextact"].metrics = served.metrics
        ranked = _Runner(load, served.grpc, served.pid, RANKED, True, counter, metrics=served.metrics)
        for concurrency in CONCURRENCIES[-1:] if plan.is_quick else CONCURRENCIES:
            calls = plan.size(FULL_CALLS[concurrency], 200)
            plan.say(f"{concurrency} concurrent callers")
            in_turn = [*runners.values(), ranked]
            taken = alternate(plan.rounds, [partial(runner.round, concurrency, calls) for runner in in_turn])
            rates = dict(zip((*runners, "ranked"), taken, strict=True))
            figures += _figures(concurrency, rates, {**runners, "ranked": ranked})
        figures += _h2load(plan, servers, items)
        last = _one_call(served.grpc, predict_message(counter[0], "last", next(iter(items)), SCORES))
        if len(last) < len(answer) // 2:
            raise RuntimeError("the last answer is not like the first")
    return figures


def _figures(concurrency: int, rates: dict[str, Sample], runners: dict[str, _Runner]) -> list[Figure]:
    judged = concurrency == 32
    facts = {name: runner.facts(concurrency) for name, runner in runners.items()}

    def rate(name: str, text: str, target: Target | None = None) -> Figure:
        told = facts[name]
        note = (
            f"p50 {told['p50_ms']:.2f} ms, p99 {told['p99_ms']:.2f} ms; CPU per call "
            f"{told['server_cpu_us_per_call']:.0f} us server, {told['client_cpu_us_per_call']:.0f} us client"
        )
        if "events_per_step" in told:
            note += f"; {told['events_per_step']:.1f} events a step"
        return Figure(PART, f"{text}, {concurrency} callers", "calls/s", rates[name], target, note, told)

    native = ratios(rates["nextact"], rates["native"])
    aio = ratios(rates["nextact"], rates["aio"])
    return [
        rate("nextact", "embedding and actions", Target("at least", 5000) if judged else None),
        rate("ranked", "with the top 10 items too"),
        rate("native", "empty handler, native batch API"),
        rate("aio", "empty handler, grpc.aio on uvloop"),
        Figure(
            PART, f"against the native empty handler, {concurrency} callers", "ratio", native,
            Target("at least", 0.35) if judged else None, "same generator, same messages, same answer size",
        ),
        Figure(
            PART, f"against the grpc.aio empty handler, {concurrency} callers", "ratio", aio,
            Target("above", 1.0) if judged else None, "same generator, same messages, same answer size",
        ),
    ]  # fmt: skip


def _h2load(plan: Plan, servers: dict[str, tuple[str, int]], items: dict[str, str]) -> list[Figure]:
    """The same servers under h2load: what it sends is one event and its DUPLICATEs."""
    if not h2load.is_installed():
        return [Figure(PART, "h2load, 32 callers", "calls/s", None, note="h2load is not installed: apt nghttp2-client")]
    plan.say("h2load")
    message = predict_message(0, "h2load", next(iter(items)), SCORES)
    calls = plan.size(12_000, 1000)
    measures: list[Callable[[], float]] = [
        partial(h2load.calls_per_second, target, PATH, message, 32, calls) for target, _ in servers.values()
    ]
    taken = dict(zip(servers, alternate(plan.rounds, measures), strict=True))
    note = "sends one event again and again: all but the first are DUPLICATE, which is not the whole job"
    return [
        Figure(PART, "h2load, 32 callers, duplicates", "calls/s", taken["nextact"], None, note),
        Figure(PART, "h2load, empty handler, native batch API", "calls/s", taken["native"]),
        Figure(PART, "h2load, empty handler, grpc.aio on uvloop", "calls/s", taken["aio"]),
        Figure(PART, "h2load, against the native one, duplicates", "ratio", ratios(taken["nextact"], taken["native"])),
    ]


def _one_call(target: str, message: bytes) -> bytes:
    """One Predict through gRPC's own client, which raises unless the status is OK."""
    with grpc.insecure_channel(target) as channel:
        answer: bytes = channel.unary_unary(PATH, None, None)(message, timeout=30)
    return answer
