"""From process start to health SERVING, with converted models cached."""

from bench.figures import Figure, Target, sample
from bench.plan import Plan
from bench.processes import nextact_server

__all__ = ["measure"]


def measure(plan: Plan) -> list[Figure]:
    """Starts the server again and again; the first start, which may convert models, does not count."""
    plan.say("first start")
    with nextact_server(plan.repository) as served:
        first = served.start_seconds
    seconds = []
    for at in range(2 if plan.is_quick else 5):
        plan.say(f"warm start {at + 1}")
        with nextact_server(plan.repository) as served:
            seconds.append(served.start_seconds)
    note = f"from process start to health SERVING; the first start of this run took {first:.1f} s"
    return [Figure("Start", "warm start", "s", sample(seconds), Target("at most", 10), note)]
