"""Backends `nextact_text` and `nextact_image`: the doors from the model repository to the encoders."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tritonclient.grpc import model_config_pb2

from nextact_server.features.content import CONTENT_DIM, Content
from nextact_server.inference.infer_errors import invalid_argument
from nextact_server.inference.infer_request import InferRequest
from nextact_server.inference.instance import Scheduler
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.inference.tensors import Tensor
from nextact_server.own_models.encoders import EMBEDDING, Encoders, EncoderScheduler
from nextact_server.own_models.versions import OwnVersion, add_tensor, check_own
from nextact_server.repository.backend import ModelContext
from nextact_server.repository.config import ModelConfig

__all__ = ["EncoderBackend", "image_encoder_backend", "text_encoder_backend"]

TEXT, IMAGE, PIXELS = "text", "image", "pixels"


@dataclass(frozen=True, slots=True)
class EncoderBackend:
    """Serves the one encoder of its kind, named by `setting`; `inputs` are (name, data type, dims, optional)."""

    name: str
    setting: str
    inputs: tuple[tuple[str, str, tuple[int, ...], bool], ...]
    make_scheduler: Callable[[ModelStatistics], Scheduler]

    def complete(self, config: ModelConfig, version_dir: Path) -> ModelConfig:  # noqa: ARG002
        """Add the tensors that the config leaves out. Raises InferError for another model than the served one."""
        check_own(config, self.name, self.setting)
        completed = model_config_pb2.ModelConfig()
        completed.CopyFrom(config)
        if not completed.input:
            for name, data_type, dims, optional in self.inputs:
                add_tensor(completed.input, name, data_type, list(dims), optional=optional)
        if not completed.output:
            add_tensor(completed.output, EMBEDDING, "TYPE_FP32", [CONTENT_DIM])
        return completed

    def load(self, context: ModelContext) -> OwnVersion:
        """Stand before the encoder."""
        return OwnVersion(self.make_scheduler(context.statistics))


def text_encoder_backend(encoders: Encoders, name: str) -> EncoderBackend:
    """UTF-8 texts in, `text` BYTES [n, 1]."""
    inputs = ((TEXT, "TYPE_STRING", (1,), False),)
    return EncoderBackend(name, "text_model", inputs, partial(EncoderScheduler, encoders, _texts))


def image_encoder_backend(encoders: Encoders, name: str, max_image_bytes: int) -> EncoderBackend:
    """Images in: `image` BYTES [n, 1], encoded, or `pixels` UINT8 [n, height, width, 3], RGB."""
    inputs = ((IMAGE, "TYPE_STRING", (1,), True), (PIXELS, "TYPE_UINT8", (-1, -1, 3), True))
    scheduler = partial(
        EncoderScheduler, encoders, partial(_images, max_image_bytes), is_slow=lambda request: PIXELS in request.inputs
    )
    return EncoderBackend(name, "image_model", inputs, scheduler)


def _texts(request: InferRequest) -> list[Content]:
    texts: list[Content] = []
    for row, data in enumerate(request.inputs[TEXT].reshape(-1).tolist()):
        try:
            texts.append(Content(text=data.decode()))
        except UnicodeDecodeError as error:
            raise invalid_argument(f"input '{TEXT}', row {row}: is not valid UTF-8: {error.reason}") from error
    return texts


def _images(max_bytes: int, request: InferRequest) -> list[Content]:
    encoded, pixels = request.inputs.get(IMAGE), request.inputs.get(PIXELS)
    if (encoded is None) == (pixels is None):
        what = "neither is given" if encoded is None else "both are given"
        raise invalid_argument(f"exactly one of the inputs '{IMAGE}' and '{PIXELS}' is expected; {what}")
    if encoded is not None:
        return [Content(image=data) for data in encoded.reshape(-1).tolist()]
    assert pixels is not None
    size = pixels[0].nbytes if len(pixels) else 0
    if size > max_bytes:
        raise invalid_argument(
            f"input '{PIXELS}' has {size} bytes a row, over the limit of {max_bytes}; max_image_bytes raises it"
        )
    return [Content(image=_png(picture)) for picture in pixels]


def _png(pixels: Tensor) -> bytes:
    """Pixels uint8 [height, width, 3] as an uncompressed PNG, so that they go the way of every image: limits, hash,
    cache, and the same resizing. Takes some 60 ms a megapixel."""
    sink = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, "PNG", compress_level=0)
    return sink.getvalue()
