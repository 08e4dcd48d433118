"""The image encoder inside ContentEncoder, beside the bare model on OpenVINO and the eager torch module."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.figures import Figure, Sample, Target, alternate, ratios
from bench.pictures import pictures
from bench.plan import Plan
from bench.processes import CONVERTED
from nextact_server.features.cards import load_image_card
from nextact_server.features.content import IMAGE_BATCHES, ContentEncoder, load_content_encoder
from nextact_server.features.decode import ImageLimits, decode_image
from nextact_server.features.image import RESNET18_FILE, ImageEncoder, find_weights, load_image_encoder
from nextact_server.features.loading import EncoderOptions
from nextact_server.inference.cores import CoreBudget
from nextact_server.settings import Settings

__all__ = ["encoder_threads", "measure"]

BATCH = IMAGE_BATCHES.max_batch
Pixels = npt.NDArray[np.uint8]


def encoder_threads() -> int:
    """Threads that the server gives its encoders unless told otherwise."""
    return Settings(_cli_parse_args=False).encoder_threads or os.cpu_count() or 1  # type: ignore[call-arg]


def measure(plan: Plan) -> list[Figure]:
    """Images per second of the default encoder, on all cores and as the server starts it, and of ResNet-18."""
    figures: list[Figure] = []
    default = plan.repository / "image_encoder" / "1"
    cores = os.cpu_count() or 1
    figures += _compare(plan, "EfficientNet-Lite0", default, cores, eager_target=3.5)
    if encoder_threads() != cores and not plan.is_quick:
        figures += _compare(plan, "EfficientNet-Lite0", default, encoder_threads())
    if not plan.is_quick:
        with tempfile.TemporaryDirectory(prefix="nextact-bench-") as directory:
            version, weights = _resnet(Path(directory))
            figures += _compare(plan, "ResNet-18", version, cores, weights)
    return figures


def _compare(
    plan: Plan, name: str, version_dir: Path, threads: int, about: str = "", eager_target: float | None = None
) -> list[Figure]:
    import torch

    plan.say(f"{name}, {threads} threads")
    every = os.cpu_count() or 1
    torch.set_num_threads(every)
    bare = load_image_encoder(version_dir, EncoderOptions(CONVERTED, CoreBudget(threads), threads))
    widest = load_image_encoder(version_dir, EncoderOptions(CONVERTED, CoreBudget(every), every))
    encoder = load_content_encoder(version_dir, plan.repository / "text_encoder" / "1", CONVERTED, threads=threads)
    waiting = plan.size(4, 2) * BATCH
    fresh = _Fresh(waiting)
    try:
        decoded = [decode_image(data, bare.pixels, ImageLimits()) for data in fresh.take()]
        module = _eager(version_dir)
        inside, only, with_decode, all_cores, eager, single = alternate(
            plan.rounds,
            [
                lambda: _inside(encoder, fresh.take()),
                lambda: _bare(bare, decoded),
                lambda: _decode_and_run(bare, fresh.take()),
                lambda: _bare(widest, decoded),
                lambda: _torch(module, np.stack(decoded[:BATCH])),
                lambda: 1e3 / _inside(encoder, fresh.take()[:1]),
            ],
        )
    finally:
        for model in (encoder, bare, widest):
            model.close()
    part = f"{name}, {threads} thread{'s' * (threads > 1)}"
    if threads == encoder_threads():
        part += " (the server's default)"
    given = "pixels given"
    uneven = "the server decodes, the other does not"

    def figure(name: str, unit: str, taken: Sample, note: str = "", target: float | None = None) -> Figure:
        return Figure(part, name, unit, taken, None if target is None else Target("at least", target), note)

    is_judged = threads == every
    decodes = f"decoding too; {about}" if about else "decoding too"
    figures = [
        figure(f"inside the server, {waiting} waiting", "images/s", inside, decodes),
        figure(f"bare OpenVINO model at batch {BATCH}", "images/s", only, given),
        figure("decoding, then the bare model", "images/s", with_decode, "one after the other"),
        figure(f"eager torch at batch {BATCH}, all cores", "images/s", eager, given),
        figure("inside against bare", "ratio", ratios(inside, only), uneven, 0.9 if is_judged else None),
        figure("inside against decoding and bare", "ratio", ratios(inside, with_decode)),
        figure("inside against eager torch", "ratio", ratios(inside, eager), uneven, eager_target),
        figure("one image, latency", "ms", single, "decoding too"),
    ]
    if not is_judged:
        figures.append(figure("bare OpenVINO model on all cores", "images/s", all_cores, given))
        figures.append(figure("inside against bare on all cores", "ratio", ratios(inside, all_cores), uneven))
    return figures


class _Fresh:
    """Pictures that no cache has seen, `count` at a time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 1_000_000  # other parts take theirs from 0 on

    def take(self) -> list[bytes]:
        self._next += self._count
        return pictures(self._count, self._next)


def _inside(encoder: ContentEncoder, images: list[bytes]) -> float:
    started = time.perf_counter()
    for future in [encoder.encode_image(data) for data in images]:
        future.result()
    return len(images) / (time.perf_counter() - started)


def _bare(encoder: ImageEncoder, decoded: list[Pixels]) -> float:
    started = time.perf_counter()
    for start in range(0, len(decoded), BATCH):
        encoder.run(decoded[start : start + BATCH])
    return len(decoded) / (time.perf_counter() - started)


def _decode_and_run(encoder: ImageEncoder, images: list[bytes]) -> float:
    started = time.perf_counter()
    for start in range(0, len(images), BATCH):
        encoder.run([decode_image(data, encoder.pixels, ImageLimits()) for data in images[start : start + BATCH]])
    return len(images) / (time.perf_counter() - started)


def _eager(version_dir: Path) -> Callable[[Any], Any]:
    """The network as its authors wrote it, up to the pooled features; pixels uint8 [n, size, size, 3]."""
    from nextact_server.features import backbones

    card = load_image_card(version_dir)
    weights = find_weights(card.encoder, None if card.weights_path is None else version_dir / card.weights_path)
    build = {"efficientnet-lite0": backbones.efficientnet_lite0, "resnet18": backbones.resnet18}[card.encoder]
    return build(weights.path)


def _torch(module: Callable[[Any], Any], pixels: Pixels) -> float:
    import torch

    batch = torch.from_numpy(pixels)
    started = time.perf_counter()
    with torch.inference_mode():
        module(batch)
    return len(pixels) / (time.perf_counter() - started)


def _resnet(directory: Path) -> tuple[Path, str]:
    """A version directory of ResNet-18, with drawn weights where the official ones are not: speed is the same."""
    import torch
    from safetensors.torch import save_file

    official = Path(torch.hub.get_dir()) / "checkpoints" / RESNET18_FILE
    path = official
    if not official.is_file():
        from torchvision.models import resnet18

        torch.manual_seed(0)
        path = directory / "drawn.pth"
        torch.save(resnet18(weights=None).state_dict(), path)
    torch.manual_seed(0)
    save_file({"weight": torch.randn(384, 512) / 23, "bias": torch.zeros(384)}, directory / "projection.safetensors")
    card = {"encoder": "resnet18", "weights_path": str(path)}
    (directory / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return directory, "official weights" if official.is_file() else "the official weights are not here: drawn ones"
