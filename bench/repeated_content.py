"""Repeated content: the same 1,000 item images registered a second time, through the running server."""

import statistics
import time

from bench.figures import Figure, Target, ratios, sample
from bench.pictures import pictures
from bench.plan import Plan
from bench.processes import nextact_server
from nextact import Client, Content, Item

__all__ = ["measure"]

PART = "Repeated content"
IMAGES = 1000
CALL = 200
"""Images in one call; each call's first pass is compared with the same call's second."""


def measure(plan: Plan) -> list[Figure]:
    """Seconds of the first pass against the second, for UpsertItems and for Embed."""
    count = plan.size(IMAGES, CALL)
    data = pictures(count)
    if len(set(data)) != count:
        raise RuntimeError(f"of {count} pictures only {len(set(data))} differ")
    figures: list[Figure] = []
    with nextact_server(plan.repository) as served, Client(served.grpc) as client:
        plan.say(f"registering {count:,} items with images, then again")
        calls = [
            [Item(item_id=f"item-{at}", image=data[at]) for at in range(start, min(start + CALL, count))]
            for start in range(0, count, CALL)
        ]
        first = [_seconds(lambda items=items: client.upsert_items(items, timeout=300)) for items in calls]
        again = [
            statistics.median(_seconds(lambda items=items: client.upsert_items(items, timeout=300)) for _ in range(3))
            for items in calls
        ]
        contents = [[Content(image=item.image) for item in items] for items in calls]
        embed = [_seconds(lambda part=part: client.embed(part, timeout=300)) for part in contents]
        rate_first, rate_again = (sample([CALL / seconds for seconds in taken]) for taken in (first, again))
        figures += [
            Figure(PART, "UpsertItems, images never seen", "images/s", rate_first, None, f"{CALL} images in a call"),
            Figure(PART, "UpsertItems, the same images again", "images/s", rate_again, None, "median of 3 per call"),
            Figure(
                PART, f"second pass over {count:,} images against the first", "times as fast",
                ratios(rate_again, rate_first), Target("at least", 50), "call by call, over gRPC",
            ),
            Figure(
                PART, "Embed of the same images against the first pass", "times as fast",
                ratios(sample(first), sample(embed)),
            ),
        ]  # fmt: skip
    return figures


def _seconds(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started
