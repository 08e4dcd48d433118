"""Encoded images: good ones, and ones that no decoder should trust."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(seed: int = 0, side: int = 48, kind: str = "JPEG") -> bytes:
    """A small picture; every seed another."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def encoded(image: Image.Image, kind: str) -> bytes:
    """An image as a file."""
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


def truncated() -> bytes:
    """The first half of a picture."""
    whole = picture(side=256)
    return whole[: len(whole) // 2]


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes that says it has 900 megapixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(4096)))
        + _chunk(b"IEND", b"")
    )


def flat(width: int, height: int) -> bytes:
    """A PNG of one colour, small in bytes and large in pixels."""
    return encoded(Image.new("1", (width, height)), "PNG")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
