"""Encoded images to the pixels an encoder takes: JPEG, PNG and WebP, checked before anything is decoded."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from nextact_server.features.errors import ContentError
from nextact_server.features.headers import ImageHeader, read_header

__all__ = ["ImageLimits", "PixelSpec", "decode_image"]

MAX_SCANS = 100
"""Passes of a progressive JPEG. Encoders write about ten; each costs a walk over the whole picture however few bytes it
takes, so that a small file could keep a core busy for minutes."""

PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
"""Named so that they are imported: `Image.open` with a list of formats looks only among those that are."""

ORIENTATION_TAG = 0x0112
UPRIGHT = {  # EXIF orientation -> what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an encoded image may be, with the settings that say so."""

    max_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 25_000_000
    bytes_setting: str = "max_image_bytes"
    pixels_setting: str = "max_image_pixels"


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """The picture an encoder was trained on: the central square of `crop` times the shorter side, resized to `size`.

    224 px of a shorter side of 256 is a crop of 0.875, as in the evaluation of EfficientNet-Lite and of ResNet.
    """

    size: int = 224
    crop: float = 0.875
    resample: Literal["bicubic", "bilinear"] = "bicubic"


def decode_image(data: bytes, spec: PixelSpec, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    """Return the pixels of an image as contiguous uint8 [size, size, 3], RGB.

    Of an animation the first frame is taken; what is transparent is white; EXIF orientation is honoured.

    Raises:
        ContentError: over a limit (found in the header, before decoding), or not a whole image of a known format.
    """
    header = _check(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=[header.format]) as image:
            if image.size != (header.width, header.height):
                raise ContentError("image", f"corrupt {header.format}: it gives its size twice, and differently")
            return _pixels(image, spec)
    except ContentError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsers trip over: OSError, SyntaxError, ...
        raise ContentError("image", f"corrupt or truncated {header.format}: {error}") from error


def _check(data: bytes, limits: ImageLimits) -> ImageHeader:
    if not data:
        raise ContentError("image", "is empty")
    if len(data) > limits.max_bytes:
        raise ContentError(
            "image", f"has {len(data)} bytes, over the limit of {limits.max_bytes}; {limits.bytes_setting} raises it"
        )
    header = read_header(data)
    if header is None:
        raise ContentError("image", "is not a JPEG, PNG or WebP, or is cut off in its header")
    if header.width < 1 or header.height < 1:
        raise ContentError("image", f"corrupt {header.format}: its size is {header.width} x {header.height}")
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise ContentError(
            "image",
            f"has {pixels} pixels ({header.width} x {header.height}), over the limit of {limits.max_pixels}; "
            f"{limits.pixels_setting} raises it",
        )
    if header.scans > MAX_SCANS:
        raise ContentError("image", f"has {header.scans} progressive scans, over the limit of {MAX_SCANS}")
    return header


def _pixels(image: Image.Image, spec: PixelSpec) -> npt.NDArray[np.uint8]:
    if image.format == "JPEG":
        # libjpeg scales by 1/2, 1/4 or 1/8 while it decodes. Twice the wanted size is left for the resampling filter.
        scale = 2 * spec.size / spec.crop / min(image.size)
        if scale < 1:
            image.draft(image.mode, (int(image.width * scale), int(image.height * scale)))
    turn = UPRIGHT.get(_orientation(image))
    square = _resized(_plain(image), spec)
    if turn is not None:  # a central square may be turned after it was cut out
        square = square.transpose(turn)
    return np.ascontiguousarray(square, dtype=np.uint8)


def _plain(image: Image.Image) -> Image.Image:
    """Bring a mode that cannot be resampled (palette, bits, 16-bit grey) to one that can."""
    if image.mode in ("RGB", "RGBA", "L", "LA", "CMYK", "YCbCr"):
        return image
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 255, not scale
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("1", "F"):
        return image.convert("L")
    return image.convert("RGBA")


def _resized(image: Image.Image, spec: PixelSpec) -> Image.Image:
    side = min(image.size) * spec.crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    filter_ = Image.Resampling.BICUBIC if spec.resample == "bicubic" else Image.Resampling.BILINEAR
    square = image.resize((spec.size, spec.size), filter_, box=(left, top, left + side, top + side), reducing_gap=3.0)
    if square.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", square.size, "white")
        white.alpha_composite(square.convert("RGBA"))
        square = white
    return square if square.mode == "RGB" else square.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block does not make the picture unreadable
        return 1
