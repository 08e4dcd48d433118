"""Texts and images to vectors of one content space: the front door of this package.

A content goes cache -> admission -> intake (decode or tokenize) -> batcher -> model, and back the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nextact_server.features.admission import Admission, AdmissionLimits, EncodersFull
from nextact_server.features.cache import CacheObserver, ContentHash, VectorCache
from nextact_server.features.decode import ImageLimits, decode_image
from nextact_server.features.encoder import Content, ContentEncoder, EncoderVersions, Encoding
from nextact_server.features.errors import ContentError, EncoderError
from nextact_server.features.image import ImageEncoder, load_image_encoder
from nextact_server.features.intake import ImageIntake, TextIntake
from nextact_server.features.loading import EncoderOptions
from nextact_server.features.text import TextEncoder, load_text_encoder
from nextact_server.features.vectors import CONTENT_DIM, Vector
from nextact_server.inference.batcher import Batcher, BatchObserver, Clock
from nextact_server.inference.cores import CoreBudget
from nextact_server.inference.device import InstanceKind

__all__ = [
    "CONTENT_DIM",
    "AdmissionLimits",
    "BatchOptions",
    "CacheObserver",
    "Content",
    "ContentEncoder",
    "ContentError",
    "ContentHash",
    "ContentLimits",
    "EncoderError",
    "EncodersFull",
    "Encoding",
    "ImageLimits",
    "Vector",
    "load_content_encoder",
]

DECODERS = 4
"""Most decoding threads: with fewer cores there are as many as cores, which they share with the models."""


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """Bounds on single contents, on what is under way and on the cache."""

    max_text_bytes: int = 64 * 1024
    image: ImageLimits = field(default_factory=ImageLimits)
    images: AdmissionLimits = field(default_factory=AdmissionLimits)
    texts: AdmissionLimits = field(default_factory=AdmissionLimits)
    cache_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a model is batched and where it runs: what `config.pbtxt` says of it.

    `max_batch` and `max_queue` count images, or tokens; `kind` is that of the instance group; `half`: float16 on CUDA.
    """

    name: str
    max_batch: int
    max_queue: int
    max_queue_delay_s: float = 0.0
    kind: InstanceKind = "KIND_AUTO"
    half: bool = False


IMAGE_BATCHES = BatchOptions("image_encoder", max_batch=16, max_queue=4096)
TEXT_BATCHES = BatchOptions("text_encoder", max_batch=1024, max_queue=262_144)


def load_content_encoder(
    image_dir: Path,
    text_dir: Path,
    cache_dir: Path,
    *,
    threads: int,
    limits: ContentLimits | None = None,
    image_batches: BatchOptions = IMAGE_BATCHES,
    text_batches: BatchOptions = TEXT_BATCHES,
    batch_observer: BatchObserver | None = None,
    cache_observer: CacheObserver | None = None,
    clock: Clock | None = None,
) -> ContentEncoder:
    """Load both encoders and wire them to their batchers and the cache.

    Args:
        image_dir, text_dir: version directories of the two encoders.
        cache_dir: where converted models are kept; filled on the first start, which takes some ten seconds.
        threads: cores that models and decoders use together.
        limits: bounds on contents; the defaults if None.
        image_batches, text_batches: how they are batched.
        batch_observer, cache_observer: who is told what happens.
        clock: the batchers' time.

    Raises:
        EncoderError: a file of an encoder is missing, broken or does not fit.
        IrCacheError: `cache_dir` cannot be written.
        DeviceError: a device was asked for that is not there.
    """
    limits = limits or ContentLimits()
    cores = CoreBudget(threads)
    image = load_image_encoder(image_dir, _options(cache_dir, cores, image_batches))
    try:
        text = load_text_encoder(text_dir, _options(cache_dir, cores, text_batches))
    except BaseException:
        image.close()
        raise
    image_batcher = Batcher(
        image_batches.name,
        image.run,
        max_cost=image_batches.max_batch,
        max_queue_cost=image_batches.max_queue,
        max_queue_delay_s=image_batches.max_queue_delay_s,
        clock=clock,
        observer=batch_observer,
    )
    text_batcher = Batcher(
        text_batches.name,
        text.run,
        max_cost=text_batches.max_batch,
        max_queue_cost=text_batches.max_queue,
        max_queue_delay_s=text_batches.max_queue_delay_s,
        cost=len,
        order=len,
        clock=clock,
        observer=batch_observer,
    )
    image_intake = ImageIntake(
        lambda data: decode_image(data, image.pixels, limits.image),
        image_batcher,
        threads=min(threads, DECODERS),
        cores=cores,
        batch=image_batches.max_batch,
    )
    text_intake = TextIntake(text.tokenize, text_batcher, cores=cores)
    return ContentEncoder(
        text_intake,
        image_intake,
        EncoderVersions(text=text.version, image=image.version),
        VectorCache(limits.cache_bytes, cache_observer),
        Admission(limits.texts, limits.images),
        max_text_bytes=limits.max_text_bytes,
        close=_closing(image, text, image_intake, text_intake, image_batcher.close, text_batcher.close),
    )


def _options(cache_dir: Path, cores: CoreBudget, batches: BatchOptions) -> EncoderOptions:
    return EncoderOptions(cache_dir, cores, cores.cores, batches.kind, batches.half)


def _closing(
    image: ImageEncoder,
    text: TextEncoder,
    image_intake: ImageIntake,
    text_intake: TextIntake,
    *close_batchers: Callable[[], None],
) -> Callable[[], None]:
    def close() -> None:
        for intake in (image_intake, text_intake):
            intake.close()
        for close_batcher in close_batchers:
            close_batcher()
        for encoder in (image, text):
            encoder.close()

    return close
