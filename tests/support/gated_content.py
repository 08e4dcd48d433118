"""Content encoders that are instant, or as slow as a test wants: what is behind the gate waits until it is opened."""

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from support.tiny_model import CONTENT_DIM

from nextact_server.features.admission import Admission, AdmissionLimits
from nextact_server.features.cache import VectorCache
from nextact_server.features.content import ContentEncoder
from nextact_server.features.encoder import EncoderVersions
from nextact_server.features.errors import ContentError

BROKEN = b"not an image"


class Gate:
    """Where contents wait while it is closed. Vectors are drawn by the content's hash; `BROKEN` images are refused."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._waiting: list[tuple[Any, Future[Any]]] = []

    def close(self) -> None:
        """Contents that come from now on wait."""
        with self._changed:
            self._closed = True

    def open(self) -> None:
        """Computes what waits and, from now on, what comes."""
        with self._changed:
            self._closed = False
            waiting, self._waiting = self._waiting, []
        for content, future in waiting:
            _compute(content, future)

    @property
    def waiting(self) -> int:
        """How many contents wait."""
        with self._changed:
            return len(self._waiting)

    def await_waiting(self, count: int, timeout: float = 20) -> None:
        """Returns once at least `count` contents wait."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._waiting) >= count, timeout), f"{len(self._waiting)} wait"

    def submit_many(self, contents: Sequence[Any]) -> list[Future[Any]]:
        """As the sources of ContentEncoder."""
        futures: list[Future[Any]] = [Future() for _ in contents]
        with self._changed:
            if self._closed:
                self._waiting.extend(zip(contents, futures, strict=True))
                self._changed.notify_all()
                return futures
        for content, future in zip(contents, futures, strict=True):
            _compute(content, future)
        return futures


def gated_encoder(gate: Gate, limits: AdmissionLimits | None = None) -> ContentEncoder:
    """The real front door, admission, cache and hashes included, before encoders that the gate holds up."""
    versions = EncoderVersions(text="gated", image="gated")
    return ContentEncoder(gate, gate, versions, VectorCache(1 << 20), Admission(limits, limits))


def _compute(content: Any, future: "Future[Any]") -> None:
    data = content.encode() if isinstance(content, str) else content
    if data == BROKEN:
        future.set_exception(ContentError("image", "cannot be decoded"))
        return
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8])
    vector = np.random.default_rng(seed).normal(size=CONTENT_DIM).astype(np.float32)
    future.set_result(vector / np.linalg.norm(vector))
