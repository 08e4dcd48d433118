import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nextact_server.features.decode import MAX_SCANS, ImageLimits, PixelSpec, decode_image
from nextact_server.features.errors import ContentError
from nextact_server.features.headers import read_header

SPEC = PixelSpec()
LIMITS = ImageLimits()


def picture(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """A smooth picture, so that lossy formats change it little: red grows rightwards, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, np.full_like(across, 60)], 2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def decoded(data: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    return decode_image(data, SPEC, limits)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("format", "how"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_every_format_gives_the_same_picture(format: str, how: dict[str, object]) -> None:
    pixels = decoded(encoded(picture(), format, **how))
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    reference = decoded(encoded(picture(), "PNG"))
    assert np.abs(pixels.astype(int) - reference).mean() < 4


def test_the_central_crop_is_seven_eighths_of_the_shorter_side() -> None:
    marked = Image.new("RGB", (256, 256), "blue")
    marked.paste("white", (16, 16, 240, 240))
    pixels = decoded(encoded(marked, "PNG"))
    assert (pixels == 255).all()


@pytest.mark.parametrize(
    "image",
    [
        picture(mode="L"),
        picture(mode="CMYK"),
        picture().quantize(32),
        picture(mode="RGBA"),
        picture(mode="LA"),
        picture(mode="1"),
    ],
    ids=lambda image: image.mode,
)
def test_every_mode_becomes_rgb(image: Image.Image) -> None:
    pixels = decoded(encoded(image, "JPEG" if image.mode == "CMYK" else "PNG"))
    reference = decoded(encoded(image.convert("RGB"), "PNG"))
    # Where bits are resampled, before or after they become grey makes a difference of shades.
    assert np.abs(pixels.astype(int) - reference).mean() < 6


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    pixels = decoded(encoded(Image.fromarray(grey), "PNG"))
    middle = pixels[112, 112].astype(int)
    assert np.abs(middle - 127).max() < 4


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0)).convert(mode)
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
    pixels = decoded(encoded(image, "PNG"))
    assert (pixels >= 254).all()


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    red = decoded(data)[112, 112].astype(int)
    assert np.abs(red - (255, 0, 0)).max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(picture(64, 48), "PNG", exif=exif)
    with Image.open(io.BytesIO(turned)) as image:
        upright = encoded(ImageOps.exif_transpose(image), "PNG")
    assert np.abs(decoded(turned).astype(int) - decoded(upright)).max() <= 1


def test_a_broken_exif_block_does_not_make_a_picture_unreadable() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01")
    assert decoded(data).shape == (224, 224, 3)


def test_scaling_while_decoding_keeps_the_picture() -> None:
    large = picture(3000, 2000)
    scaled = decoded(encoded(large, "JPEG", quality=95))
    assert np.abs(scaled.astype(int) - decoded(encoded(large, "PNG"))).mean() < 1


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_odd_sizes_are_decoded(size: tuple[int, int], format: str) -> None:
    assert decoded(encoded(picture(*size), format)).shape == (224, 224, 3)


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "ICO"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(ContentError, match="not a JPEG, PNG or WebP") as caught:
        decoded(encoded(picture(), format))
    assert caught.value.field == "image"


def test_too_many_bytes_are_refused_naming_limit_value_and_setting() -> None:
    data = encoded(picture(), "PNG")
    with pytest.raises(ContentError) as caught:
        decoded(data, ImageLimits(max_bytes=100))
    assert f"{len(data)} bytes" in caught.value.reason
    assert "limit of 100" in caught.value.reason
    assert "max_image_bytes" in caught.value.reason


@pytest.mark.parametrize(
    "bomb",
    [
        png_claiming(50_000, 50_000),
        # An animated WebP of 16383 x 16383, for which libwebp would set 2 GB aside on opening.
        b"RIFF"
        + struct.pack("<I", 30)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\x02\0\0\0"
        + (16382).to_bytes(3, "little") * 2
        + b"ANIM"
        + struct.pack("<I", 6)
        + b"\0" * 6,
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x01\x11\0" * 3 + b"\xff\xda",
    ],
    ids=["png", "webp", "jpeg"],
)
def test_bombs_are_refused_by_their_header(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a decoder was opened")

    monkeypatch.setattr(Image, "open", never)
    with pytest.raises(ContentError, match="pixels") as caught:
        decoded(bomb)
    assert "25000000" in caught.value.reason
    assert "max_image_pixels" in caught.value.reason


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(picture(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(ContentError, match=f"scans, over the limit of {MAX_SCANS}"):
        decoded(data[:-2] + data[start:-2] * 2 * MAX_SCANS + data[-2:])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_an_error_wherever_the_picture_was_cut(format: str) -> None:
    data = encoded(picture(), format)
    trailer = 32  # a PNG's last pixels are followed by two checksums and an end chunk, which nothing is missed of
    for length in range(0, len(data) - trailer, 7):
        with pytest.raises(ContentError) as caught:
            decoded(data[:length])
        assert caught.value.field == "image"


@settings(max_examples=200, deadline=None)
@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_broken_bytes_give_pixels_or_a_content_error(format: str, edits: list[tuple[float, int]]) -> None:
    data = bytearray(encoded(picture(), format))
    for place, value in edits:
        data[int(place * len(data))] = value
    with contextlib.suppress(ContentError):
        assert decoded(bytes(data)).shape == (224, 224, 3)


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF\0\0\0\0WEBPVP8X"]),
    rest=st.binary(max_size=60),
)
def test_noise_after_a_magic_number_is_a_content_error(start: bytes, rest: bytes) -> None:
    with pytest.raises(ContentError):
        decoded(start + rest)


@settings(max_examples=40, deadline=None)
@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    lossless=st.booleans(),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
)
def test_the_header_tells_the_size_that_the_decoder_finds(format: str, lossless: bool, width: int, height: int) -> None:
    header = read_header(encoded(picture(width, height), format, lossless=lossless))
    assert header is not None
    assert (header.format, header.width, header.height) == (format, width, height)
