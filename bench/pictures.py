"""Distinct item images for the encoders: crops of the shipped grocery photos, the same in every run."""

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from bench.processes import ROOT

__all__ = ["pictures"]

SHARE = 0.85
"""Side of a crop, as a share of the photo's."""


def pictures(count: int, first: int = 0) -> list[bytes]:
    """JPEG files number `first` to `first + count`: each photo in turn, cropped at another place each time."""
    photos = sorted((ROOT / "examples" / "grocery").rglob("*.jpg"))
    if not photos:
        raise FileNotFoundError("examples/grocery holds no photos")
    opened = {path: Image.open(path).convert("RGB") for path in photos}
    return list(_crops(opened, count, first))


def _crops(photos: dict[Path, Image.Image], count: int, first: int) -> Iterator[bytes]:
    every = list(photos.values())
    for number in range(first, first + count):
        photo, turn = every[number % len(every)], number // len(every)
        width, height = int(photo.width * SHARE), int(photo.height * SHARE)
        room_x, room_y = photo.width - width + 1, photo.height - height + 1
        left, top = turn % room_x, (turn // room_x) % room_y
        file = io.BytesIO()
        photo.crop((left, top, left + width, top + height)).save(file, "JPEG", quality=90 - turn // (room_x * room_y))
        yield file.getvalue()
