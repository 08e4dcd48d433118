from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from nextact_server.features.cache import VectorCache
from nextact_server.features.encoder import Content, ContentEncoder, EncoderVersions
from nextact_server.features.errors import ContentError
from nextact_server.features.vectors import unit_rows


class Source:
    """Hands out futures that the test settles."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.futures: list[Future[np.ndarray]] = []

    def submit_many(self, contents: Sequence[object]) -> list[Future[np.ndarray]]:
        new: list[Future[np.ndarray]] = [Future() for _ in contents]
        self.asked.extend(contents)
        self.futures.extend(new)
        return new

    def settle(self, *axes: int) -> None:
        for future, axis in zip(self.futures, axes, strict=True):
            future.set_result(axis_vector(axis))
        self.futures.clear()


def axis_vector(axis: int) -> np.ndarray:
    vector = np.zeros(384, np.float32)
    vector[axis] = 1
    return vector


@pytest.fixture
def texts() -> Source:
    return Source()


@pytest.fixture
def images() -> Source:
    return Source()


def encoder_of(texts: Source, images: Source, version: str = "1") -> ContentEncoder:
    return ContentEncoder(
        texts, images, EncoderVersions(text=version, image=version), VectorCache(1 << 20), max_text_bytes=10
    )


@pytest.fixture
def encoder(texts: Source, images: Source) -> ContentEncoder:
    return encoder_of(texts, images)


def test_what_was_encoded_comes_from_the_cache(encoder: ContentEncoder, texts: Source) -> None:
    first = encoder.encode_text("apple")
    texts.settle(3)
    again = encoder.encode_text("apple")
    assert again.result(0)[3] == 1
    assert first.result(0) is again.result(0)
    assert texts.asked == ["apple"]


def test_equal_contents_of_one_call_are_computed_once(encoder: ContentEncoder, images: Source) -> None:
    futures = encoder.encode_many([Content(image=b"x"), Content(image=b"y"), Content(image=b"x")])
    images.settle(0, 1)
    assert [int(future.result(0).argmax()) for future in futures] == [0, 1, 0]
    assert images.asked == [b"x", b"y"]


def test_cancelling_the_first_caller_does_not_cancel_the_work(encoder: ContentEncoder, texts: Source) -> None:
    first, second = encoder.encode_text("apple"), encoder.encode_text("apple")
    assert first.cancel()
    assert not texts.futures[0].cancelled()
    texts.settle(5)
    assert second.result(0)[5] == 1
    assert encoder.cached(encoder.hash_of(Content(text="apple"))) is not None


def test_a_failure_is_not_cached_and_may_be_asked_again(encoder: ContentEncoder, images: Source) -> None:
    first, second = encoder.encode_image(b"x"), encoder.encode_image(b"x")
    images.futures.pop().set_exception(ContentError("image", "is torn"))
    assert isinstance(first.exception(0), ContentError)
    assert isinstance(second.exception(0), ContentError)
    again = encoder.encode_image(b"x")
    images.settle(2)
    assert again.result(0)[2] == 1


def test_text_with_image_is_the_mean_direction_of_both(encoder: ContentEncoder, texts: Source, images: Source) -> None:
    future = encoder.encode(Content("apple", b"x"))
    texts.settle(0)
    assert not future.done()
    images.settle(1)
    vector = future.result(0)
    assert vector == pytest.approx(unit_rows((axis_vector(0) + axis_vector(1)) / 2))
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_parts_are_shared_with_whoever_asks_for_one_of_them(
    encoder: ContentEncoder, texts: Source, images: Source
) -> None:
    text = encoder.encode_text("apple")
    both = encoder.encode(Content("apple", b"x"))
    texts.settle(0)
    images.settle(1)
    assert text.result(0)[0] == 1
    assert both.result(0)[1] > 0
    assert encoder.encode_image(b"x").result(0)[1] == 1
    assert encoder.encode(Content("apple", b"x")).result(0) is both.result(0)


def test_a_failing_part_fails_the_whole_but_not_the_other_part(
    encoder: ContentEncoder, texts: Source, images: Source
) -> None:
    both = encoder.encode(Content("apple", b"x"))
    images.futures.pop().set_exception(ContentError("image", "is torn"))
    texts.settle(0)
    assert both.exception(0).field == "image"  # type: ignore[union-attr]
    assert encoder.encode_text("apple").result(0)[0] == 1


@pytest.mark.parametrize("content", [Content(), Content("", b""), Content("", None)])
def test_an_empty_content_is_refused(encoder: ContentEncoder, content: Content) -> None:
    error = encoder.encode(content).exception(0)
    assert isinstance(error, ContentError)
    assert "neither text nor image" in error.reason


def test_a_text_over_its_limit_is_refused_naming_limit_value_and_setting(encoder: ContentEncoder) -> None:
    error = encoder.encode_text("ä" * 6).exception(0)
    assert isinstance(error, ContentError)
    assert error.field == "text"
    for part in ("12 bytes", "limit of 10", "max_text_bytes"):
        assert part in error.reason


def test_a_text_that_is_no_unicode_is_refused(encoder: ContentEncoder) -> None:
    error = encoder.encode_text("a\ud800").exception(0)
    assert isinstance(error, ContentError)
    assert error.field == "text"


def test_a_bad_content_never_fails_its_neighbours(encoder: ContentEncoder, texts: Source) -> None:
    good, bad, last = encoder.encode_many([Content(text="a"), Content(), Content(text="b")])
    texts.settle(0, 1)
    assert (good.result(0)[0], last.result(0)[1]) == (1, 1)
    assert isinstance(bad.exception(0), ContentError)


def test_the_hash_has_sixteen_bytes_and_tells_kind_version_and_content_apart(texts: Source, images: Source) -> None:
    contents = [Content(text="x"), Content(image=b"x"), Content("x", b"x"), Content(text="y"), Content("x", b"y")]
    hashes = [encoder_of(texts, images, version).hash_of(one) for version in ("1", "2") for one in contents]
    assert {len(one) for one in hashes} == {16}
    assert len(set(hashes)) == len(hashes)
    assert encoder_of(texts, images).hash_of(contents[0]) == hashes[0]


def test_the_hash_comes_beside_the_future(encoder: ContentEncoder) -> None:
    known, empty = encoder.encode_hashed([Content("a", b"x"), Content()])
    assert known.key == encoder.hash_of(Content("a", b"x"))
    assert empty.key is None


def test_stored_vectors_come_back_after_a_restart(encoder: ContentEncoder, texts: Source) -> None:
    key = encoder.hash_of(Content(text="apple"))
    encoder.preload(key, axis_vector(8))
    assert encoder.encode_text("apple").result(0)[8] == 1
    assert texts.asked == []


@pytest.mark.parametrize(("key", "size"), [(b"short", 384), (b"k" * 16, 383)])
def test_a_vector_of_another_space_is_not_taken(encoder: ContentEncoder, key: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="384"):
        encoder.preload(key, np.zeros(size, np.float32))


def test_many_are_looked_up_as_one_matrix(encoder: ContentEncoder) -> None:
    encoder.preload_many([(b"a" * 16, axis_vector(1)), (b"b" * 16, axis_vector(2))])
    matrix, found = encoder.cached_many([b"b" * 16, b"c" * 16, b"a" * 16])
    assert found.tolist() == [True, False, True]
    assert matrix.shape == (3, 384)
    assert matrix.argmax(1).tolist() == [2, 0, 1]
    assert not matrix[1].any()


def test_a_source_that_breaks_leaves_nobody_waiting(encoder: ContentEncoder, texts: Source) -> None:
    def broken(contents: Sequence[object]) -> list[Future[np.ndarray]]:
        raise MemoryError

    working, texts.submit_many = texts.submit_many, broken  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        encoder.encode_text("apple")
    texts.submit_many = working  # type: ignore[method-assign]
    again = encoder.encode_text("apple")
    texts.settle(1)
    assert again.result(0)[1] == 1
