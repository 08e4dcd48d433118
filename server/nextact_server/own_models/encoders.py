"""image_encoder and text_encoder as tensor models: the same encoders, cache and batchers that events go through."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from nextact_server.features.content import Content, Vector
from nextact_server.features.errors import ContentError
from nextact_server.inference.infer_errors import ErrorCode, InferError, cancelled, invalid_argument, unavailable
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.instance import StageTimes
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.together import when_all_done
from nextact_server.own_models.refusals import refusal

__all__ = ["EMBEDDING", "EncoderScheduler", "Encoders"]

EMBEDDING = "embedding"
MOST_SLOW = 64
"""Requests that may wait to be read on the thread for those that take long to read."""

ContentsOf = Callable[[InferRequest], list[Content]]


class Encoders(Protocol):
    """What is needed of `features.content.ContentEncoder`."""

    def encode_many(self, contents: Sequence[Content]) -> list[Future[Vector]]: ...


class EncoderScheduler:
    """Answers with `embedding` float32 [rows, 384]; one row that cannot be encoded fails its request, and no other.

    `contents_of` reads a request. Where `is_slow` says that this takes long, it is done on a thread for the purpose:
    the one that submits has all other calls to read too.
    """

    def __init__(
        self,
        encoders: Encoders,
        contents_of: ContentsOf,
        statistics: ModelStatistics,
        is_slow: Callable[[InferRequest], bool] = lambda _: False,
    ) -> None:
        self._encoders = encoders
        self._contents_of = contents_of
        self._statistics = statistics
        self._is_slow = is_slow
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="encoder-requests")  # its thread comes with the first
        self._places = threading.Semaphore(MOST_SLOW)

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """Start on each request by itself; the encoders' own batchers join them."""
        for request in requests:
            if not self._is_slow(request):
                self._try(request)
            elif self._places.acquire(blocking=False):
                self._start_slowly(request)
            else:
                error = f"{MOST_SLOW} requests of this kind wait already; send encoded images, or fewer at once"
                self._refuse(request, InferError(ErrorCode.EXHAUSTED, error, retry_after_s=0.1))

    def close(self, *, drain: bool = True) -> None:  # noqa: ARG002
        """Start on what waits; what is under way belongs to the encoders, which answer it when they close."""
        self._slow.shutdown()

    def _start_slowly(self, request: InferRequest) -> None:
        try:
            reading = self._slow.submit(self._try, request)
        except RuntimeError:  # closed
            self._places.release()
            self._refuse(request, unavailable("the server is stopping"))
        else:
            reading.add_done_callback(lambda _: self._places.release())

    def _try(self, request: InferRequest) -> None:
        try:
            if request.is_cancelled:
                raise cancelled("the caller went away")
            self._start(request)
        except Exception as error:
            self._refuse(request, refusal(error))

    def _start(self, request: InferRequest) -> None:
        started_ns = time.monotonic_ns()
        contents = self._contents_of(request)
        gathered_ns = time.monotonic_ns()
        vectors = self._encoders.encode_many(contents)

        def done() -> None:
            self._answer(request, vectors, started_ns, gathered_ns)

        when_all_done(vectors, done)

    def _answer(
        self, request: InferRequest, vectors: Sequence[Future[Vector]], started_ns: int, gathered_ns: int
    ) -> None:
        if request.is_cancelled:
            self._refuse(request, cancelled("the caller went away"))
            return
        for row, vector in enumerate(vectors):
            error = vector.exception()
            if isinstance(error, ContentError):
                self._refuse(request, invalid_argument(f"row {row}: {error.field} {error.reason}"))
                return
            if error is not None:
                self._refuse(request, refusal(error))
                return
        computed_ns = time.monotonic_ns()
        embedding = np.stack([vector.result() for vector in vectors])
        times = StageTimes()
        times.input_ns = gathered_ns - started_ns
        times.infer_ns = computed_ns - gathered_ns
        times.output_ns = time.monotonic_ns() - computed_ns
        self._statistics.executed([request], started_ns, times)
        request.respond(InferResponse({EMBEDDING: embedding}))

    def _refuse(self, request: InferRequest, error: InferError) -> None:
        self._statistics.left(1)
        request.respond(error)
