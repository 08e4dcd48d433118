"""The whole way with the shipped encoders."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nextact_server.features.content import Content, ContentEncoder, ContentError, load_content_encoder
from nextact_server.features.image import ImageEncoder
from nextact_server.features.text import TextEncoder


def test_texts_and_images_come_out_as_the_encoders_alone_give_them(
    content_encoder: ContentEncoder, text_encoder: TextEncoder, image_encoder: ImageEncoder, grocery: list[bytes]
) -> None:
    from nextact_server.features.decode import ImageLimits, decode_image

    texts = ["fresh apples", "milk", "a much longer text about a carton of milk " * 9]
    contents = [Content(text=text) for text in texts] + [Content(image=data) for data in grocery[:5]]
    vectors = np.stack([future.result(60) for future in content_encoder.encode_many(contents)])
    alone = [text_encoder.run(text_encoder.tokenize([text]))[0] for text in texts]
    alone += [image_encoder.run([decode_image(data, image_encoder.pixels, ImageLimits())])[0] for data in grocery[:5]]
    assert np.abs(vectors - np.stack(alone)).max() <= 1e-5


def test_bad_images_fail_alone_between_good_ones(content_encoder: ContentEncoder, grocery: list[bytes]) -> None:
    bad = [b"GIF89a", grocery[0][:900], b"\x89PNG\r\n\x1a\n", b"\xff" * 2000]
    contents = [Content(image=data) for pair in zip(grocery, bad, strict=False) for data in pair]
    futures = content_encoder.encode_many(contents)
    for good, wrong in zip(futures[::2], futures[1::2], strict=True):
        assert np.linalg.norm(good.result(60)) == pytest.approx(1, abs=1e-5)
        error = wrong.exception(60)
        assert isinstance(error, ContentError)
        assert error.field == "image"


def test_a_text_is_near_the_photos_of_what_it_says(content_encoder: ContentEncoder, repository: Path) -> None:
    photos = {path.parent.parent.name: path for path in (repository.parent / "examples" / "grocery").rglob("*.jpg")}
    names = ["Apple", "Milk", "Yoghurt", "Potato", "Melon", "Juice"]
    images = [content_encoder.encode_image(photos[name].read_bytes()).result(60) for name in names]
    query = content_encoder.encode_text("a carton of milk").result(60)
    order = np.argsort([-float(query @ image) for image in images])
    assert names[order[0]] == "Milk"


def test_closing_answers_what_was_begun(repository: Path, converted: Path, grocery: list[bytes]) -> None:
    encoder = load_content_encoder(
        repository / "image_encoder" / "1", repository / "text_encoder" / "1", converted, threads=2
    )
    futures = encoder.encode_many([Content("milk", data) for data in grocery[:8]])
    encoder.close()
    assert all(future.result(0).shape == (384,) for future in futures)
    assert encoder.encode_text("late").exception(10) is not None


def test_from_converted_models_neither_torch_nor_its_libraries_are_imported(
    repository: Path, converted: Path, content_encoder: ContentEncoder
) -> None:
    script = f"""
import sys
from pathlib import Path
from nextact_server.features.content import load_content_encoder
encoder = load_content_encoder(
    Path({str(repository / "image_encoder" / "1")!r}), Path({str(repository / "text_encoder" / "1")!r}),
    Path({str(converted)!r}), threads=1)
assert encoder.encode_text("milk").result(60).shape == (384,)
encoder.close()
print([name for name in ("torch", "torchvision", "transformers", "grpc", "google.protobuf") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
