"""A running server's own metrics."""

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["batches_of"]


def batches_of(address: str, model: str) -> tuple[float, float]:
    """How many batches a model has computed since the start, and the sum of their sizes."""
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name == "nextact_batch_cost" and sample.labels.get("model") == model
    }
    return found.get("nextact_batch_cost_count", 0.0), found.get("nextact_batch_cost_sum", 0.0)
