"""What the server says of itself: figures from its metrics endpoint."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Gauges:
    """Counts since the server's start: batches, items and cost per model, and content lookups by outcome."""

    batches: dict[str, float] = field(default_factory=dict)
    items: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    lookups: dict[str, float] = field(default_factory=dict)

    def since(self, earlier: Gauges) -> Gauges:
        """Returns what was counted after `earlier`."""
        return Gauges(
            _minus(self.batches, earlier.batches),
            _minus(self.items, earlier.items),
            _minus(self.cost, earlier.cost),
            _minus(self.lookups, earlier.lookups),
        )

    @property
    def hit_rate(self) -> float | None:
        """The part of the content lookups that needed no computation of their own; None: there were none."""
        total = sum(self.lookups.values())
        return (total - self.lookups.get("miss", 0.0)) / total if total else None


def read_gauges(address: str) -> Gauges:
    """Reads the metrics at `address`, host:port."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = sample.labels.get("outcome") or sample.labels.get("model") or ""
            sums[sample.name][label] += sample.value
    return Gauges(
        batches=dict(sums["nextact_batches_total"]),
        items=dict(sums["nextact_batch_items_total"]),
        cost=dict(sums["nextact_batch_cost_sum"]),
        lookups=dict(sums["nextact_content_cache_lookups_total"]),
    )


def _minus(now: dict[str, float], then: dict[str, float]) -> dict[str, float]:
    return {name: value - then.get(name, 0.0) for name, value in now.items()}
