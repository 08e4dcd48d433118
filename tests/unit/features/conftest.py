"""The shipped encoders, loaded once; converted models are kept between runs, known by what they were made of."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextact_server.features.content import ContentEncoder, load_content_encoder
from nextact_server.features.image import ImageEncoder, load_image_encoder
from nextact_server.features.loading import EncoderOptions
from nextact_server.features.text import TextEncoder, load_text_encoder
from nextact_server.inference.cores import CoreBudget

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT / "model_repository"


@pytest.fixture(scope="session")
def grocery() -> list[bytes]:
    """All grocery photos, encoded."""
    return [path.read_bytes() for path in sorted((ROOT / "examples" / "grocery").rglob("*.jpg"))]


@pytest.fixture(scope="session")
def converted() -> Path:
    return Path(os.environ.get("NEXTACT_TEST_MODELS", ROOT / "build" / "converted"))


@pytest.fixture(scope="session")
def options(converted: Path) -> EncoderOptions:
    return EncoderOptions(converted, CoreBudget(2), threads=2, kind="KIND_CPU")


@pytest.fixture(scope="session")
def text_encoder(repository: Path, options: EncoderOptions) -> Iterator[TextEncoder]:
    encoder = load_text_encoder(repository / "text_encoder" / "1", options)
    yield encoder
    encoder.close()


@pytest.fixture(scope="session")
def image_encoder(repository: Path, options: EncoderOptions) -> Iterator[ImageEncoder]:
    encoder = load_image_encoder(repository / "image_encoder" / "1", options)
    yield encoder
    encoder.close()


@pytest.fixture
def content_encoder(repository: Path, converted: Path) -> Iterator[ContentEncoder]:
    """The whole way, with an empty cache."""
    encoder = load_content_encoder(
        repository / "image_encoder" / "1", repository / "text_encoder" / "1", converted, threads=2
    )
    yield encoder
    encoder.close()
