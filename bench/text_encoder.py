"""The text encoder inside ContentEncoder, beside the bare model on OpenVINO."""

import os
import time

import numpy as np

from bench.figures import Figure, Sample, Target, alternate, ratios
from bench.image_encoder import encoder_threads
from bench.messages import movie_titles
from bench.plan import Plan
from bench.processes import CONVERTED
from nextact_server.features.content import Content, ContentEncoder, load_content_encoder
from nextact_server.features.loading import EncoderOptions
from nextact_server.features.text import TextEncoder, load_text_encoder
from nextact_server.inference.cores import CoreBudget

__all__ = ["measure"]

WAITING = 32
CALLS = 4
"""Batches in one round."""


def measure(plan: Plan) -> list[Figure]:
    """Texts per second of 32 short texts at once, and the latency of a single one."""
    figures: list[Figure] = []
    cores = os.cpu_count() or 1
    for threads in sorted({cores} if plan.is_quick else {cores, encoder_threads()}, reverse=True):
        figures += _compare(plan, threads)
    return figures


def _compare(plan: Plan, threads: int) -> list[Figure]:
    plan.say(f"{threads} threads")
    version_dir = plan.repository / "text_encoder" / "1"
    bare = load_text_encoder(version_dir, EncoderOptions(CONVERTED, CoreBudget(threads), threads))
    encoder = load_content_encoder(plan.repository / "image_encoder" / "1", version_dir, CONVERTED, threads=threads)
    fresh = _Fresh()
    try:
        inside, only, padded, single, single_bare = alternate(
            plan.rounds,
            [
                lambda: _inside(encoder, fresh, WAITING),
                lambda: _bare(bare, fresh, WAITING),
                lambda: _padded(bare, fresh, WAITING),
                lambda: 1e3 / _inside(encoder, fresh, 1),
                lambda: 1e3 / _bare(bare, fresh, 1),
            ],
        )
    finally:
        encoder.close()
        bare.close()
    part = f"Text encoder, {threads} thread{'s' * (threads > 1)}"
    if threads == encoder_threads():
        part += " (the server's default)"
    target = Target("at least", 0.9) if threads == (os.cpu_count() or 1) else None
    tokenizes = "the server tokenizes"

    def figure(name: str, unit: str, taken: Sample, note: str = "", target: Target | None = None) -> Figure:
        return Figure(part, name, unit, taken, target, note)

    return [
        figure(f"inside the server, {WAITING} short texts at once", "texts/s", inside, "tokens included"),
        figure(f"bare OpenVINO model, {WAITING} texts", "texts/s", only, "tokens given, grouped by length"),
        figure(f"bare OpenVINO model, {WAITING} texts in one call", "texts/s", padded, "tokens given, padded"),
        figure("inside against bare", "ratio", ratios(inside, only), tokenizes, target),
        figure("inside against bare in one call", "ratio", ratios(inside, padded), tokenizes, target),
        figure("one text, latency", "ms", single, "tokens included"),
        figure("one text, bare model", "ms", single_bare, "tokens given"),
    ]


class _Fresh:
    """Short texts that no cache has seen: film titles, each with a number."""

    def __init__(self) -> None:
        self._titles = list(movie_titles(2000).values())
        self._next = 0

    def take(self, count: int) -> list[str]:
        start, self._next = self._next, self._next + count
        return [f"{self._titles[at % 2000]} {at // 2000}" for at in range(start, start + count)]


def _inside(encoder: ContentEncoder, fresh: _Fresh, waiting: int) -> float:
    seconds = 0.0
    for _ in range(CALLS):
        texts = [Content(text=text) for text in fresh.take(waiting)]
        started = time.perf_counter()
        for future in encoder.encode_many(texts):
            future.result()
        seconds += time.perf_counter() - started
    return CALLS * waiting / seconds


def _bare(encoder: TextEncoder, fresh: _Fresh, waiting: int) -> float:
    batches = [encoder.tokenize(fresh.take(waiting)) for _ in range(CALLS)]
    started = time.perf_counter()
    for batch in batches:
        encoder.run(batch)
    return CALLS * waiting / (time.perf_counter() - started)


def _padded(encoder: TextEncoder, fresh: _Fresh, waiting: int) -> float:
    batches = []
    for _ in range(CALLS):
        tokens = encoder.tokenize(fresh.take(waiting))
        ids = np.zeros((waiting, max(map(len, tokens))), np.int64)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
        batches.append((ids, (ids != 0).astype(np.int64)))
    started = time.perf_counter()
    for ids, mask in batches:
        encoder.runtime.run(ids, mask)
    return CALLS * waiting / (time.perf_counter() - started)
