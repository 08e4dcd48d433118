"""image_encoder and text_encoder as tensor models: the same encoders, cache and batchers that events go through."""

import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np
from PIL import Image
from tritonclient.grpc import model_config_pb2

from nextact_server.features.content import CONTENT_DIM, Content, Vector
from nextact_server.features.errors import ContentError
from nextact_server.inference.infer_errors import InferError, cancelled, invalid_argument
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.instance import StageTimes
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import Tensor
from nextact_server.inference.together import when_all_done
from nextact_server.own_models.refusals import refusal
from nextact_server.own_models.versions import OwnVersion, add_tensor, check_own
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.config import ModelConfig

__all__ = ["EncoderScheduler", "ImageEncoderBackend", "TextEncoderBackend"]

TEXT, IMAGE, PIXELS, EMBEDDING = "text", "image", "pixels", "embedding"

ContentsOf = Callable[[InferRequest], list[Content]]


class Encoders(Protocol):
    """What is needed of `features.content.ContentEncoder`."""

    def encode_many(self, contents: Sequence[Content]) -> list[Future[Vector]]: ...


class EncoderScheduler:
    """Answers with `embedding` float32 [rows, 384]; one row that cannot be encoded fails its request, and no other."""

    def __init__(self, encoders: Encoders, contents_of: ContentsOf, statistics: ModelStatistics) -> None:
        self._encoders = encoders
        self._contents_of = contents_of
        self._statistics = statistics

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """Start on each request by itself; the encoders' own batchers join them."""
        for request in requests:
            try:
                self._start(request)
            except Exception as error:
                self._refuse(request, refusal(error))

    def close(self, *, drain: bool = True) -> None:
        """Nothing waits here: what is under way belongs to the encoders, which answer it when they close."""

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


class TextEncoderBackend:
    """Backend `nextact_text`: UTF-8 texts in, embeddings out."""

    def __init__(self, encoders: Encoders, name: str) -> None:
        self._encoders = encoders
        self._name = name

    def complete(self, config: ModelConfig, version_dir: object) -> ModelConfig:  # noqa: ARG002
        """Add the tensors that the config leaves out."""
        check_own(config, self._name, "text_model")
        return _completed(config, lambda inputs: add_tensor(inputs, TEXT, "TYPE_STRING", [1]))

    def load(self, context: ModelContext) -> OwnVersion:
        """Stand before the text encoder."""
        return OwnVersion(EncoderScheduler(self._encoders, _texts, context.statistics))


class ImageEncoderBackend:
    """Backend `nextact_image`: encoded images (`image`) or RGB pixels (`pixels`, uint8 [height, width, 3]) in."""

    def __init__(self, encoders: Encoders, name: str) -> None:
        self._encoders = encoders
        self._name = name

    def complete(self, config: ModelConfig, version_dir: object) -> ModelConfig:  # noqa: ARG002
        """Add the tensors that the config leaves out."""
        check_own(config, self._name, "image_model")

        def add(inputs: list[object]) -> None:
            add_tensor(inputs, IMAGE, "TYPE_STRING", [1], optional=True)
            add_tensor(inputs, PIXELS, "TYPE_UINT8", [-1, -1, 3], optional=True)

        return _completed(config, add)

    def load(self, context: ModelContext) -> OwnVersion:
        """Stand before the image encoder."""
        return OwnVersion(EncoderScheduler(self._encoders, _images, context.statistics))


def _completed(config: ModelConfig, add_inputs: Callable[[list[object]], None]) -> ModelConfig:
    completed = model_config_pb2.ModelConfig()
    completed.CopyFrom(config)
    if not completed.input:
        add_inputs(completed.input)
    if not completed.output:
        add_tensor(completed.output, EMBEDDING, "TYPE_FP32", [CONTENT_DIM])
    return completed


def _texts(request: InferRequest) -> list[Content]:
    texts: list[Content] = []
    for row, data in enumerate(request.inputs[TEXT].reshape(-1).tolist()):
        try:
            texts.append(Content(text=data.decode()))
        except UnicodeDecodeError as error:
            raise invalid_argument(f"input '{TEXT}', row {row}: is not valid UTF-8: {error.reason}") from error
    return texts


def _images(request: InferRequest) -> list[Content]:
    encoded, pixels = request.inputs.get(IMAGE), request.inputs.get(PIXELS)
    if (encoded is None) == (pixels is None):
        what = "neither is given" if encoded is None else "both are given"
        raise invalid_argument(f"exactly one of the inputs '{IMAGE}' and '{PIXELS}' is expected; {what}")
    if encoded is not None:
        return [Content(image=data) for data in encoded.reshape(-1).tolist()]
    assert pixels is not None
    return [Content(image=_png(picture)) for picture in pixels]


def _png(pixels: Tensor) -> bytes:
    """Pixels uint8 [height, width, 3] as an uncompressed PNG, so that they go the way of every image: limits, hash,
    cache, and the same resizing."""
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, "PNG", compress_level=0)
    return sink.getvalue()
