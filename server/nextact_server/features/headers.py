"""What the first bytes of an image say of it, read without decoding and without trusting a decoder to allocate.

Sources: ITU-T T.81 (JPEG), the PNG specification (W3C), RFC 9649 (WebP). A decoder may set memory aside for the whole
picture as soon as it opens a file (libwebp's animation decoder does), so the size is read here first.
"""

import struct
from dataclasses import dataclass
from typing import Literal

__all__ = ["ImageHeader", "read_header"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
# Start-of-frame markers carry the size; C4, C8 and CC in their range are tables.
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
STANDALONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format and size in pixels. `scans` counts a JPEG's passes over the picture; 1 for other formats."""

    format: Literal["JPEG", "PNG", "WEBP"]
    width: int
    height: int
    scans: int = 1


def read_header(data: bytes) -> ImageHeader | None:
    """Return what the header says, or None if this is no JPEG, PNG or WebP or it ends before its size."""
    try:
        if data.startswith(JPEG_MAGIC):
            return _jpeg(data)
        if data.startswith(PNG_MAGIC):
            return _png(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        return None
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker in STANDALONE_MARKERS:
            at += 2
            continue
        length = struct.unpack_from(">H", data, at + 2)[0]
        if marker in FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            # In the coded data FF is always followed by 00, so every FF DA after the frame starts a scan.
            return ImageHeader("JPEG", width, height, data.count(b"\xff\xda", at))
        at += 2 + length
    return None


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return ImageHeader("PNG", width, height)


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return ImageHeader("WEBP", width, height) if len(data) >= 30 else None
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return ImageHeader("WEBP", (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF)
    return None
