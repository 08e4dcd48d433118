import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from nextact_server.features.admission import Admission, AdmissionLimits, EncodersFull, Load
from nextact_server.features.cache import VectorCache
from nextact_server.features.encoder import Content, ContentEncoder, EncoderVersions

LIMITS = AdmissionLimits(items=3, size_bytes=100)
VECTOR = np.eye(1, 384, dtype=np.float32)[0]


class Source:
    """Hands out futures that the test settles."""

    def __init__(self) -> None:
        self.futures: dict[object, Future[np.ndarray]] = {}

    def submit_many(self, contents: Sequence[object]) -> list[Future[np.ndarray]]:
        new: list[Future[np.ndarray]] = [Future() for _ in contents]
        self.futures.update(zip(contents, new, strict=True))
        return new

    def settle(self, *contents: object) -> None:
        for content in contents or list(self.futures):
            self.futures.pop(content).set_result(VECTOR)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def admission() -> Admission:
    return Admission(LIMITS, LIMITS)


@pytest.fixture
def encoder(source: Source, admission: Admission) -> ContentEncoder:
    return ContentEncoder(source, source, EncoderVersions("1", "1"), VectorCache(1 << 20), admission)


def texts(names: str) -> list[Content]:
    return [Content(text=name) for name in names]


def images(names: str) -> list[Content]:
    return [Content(image=name.encode()) for name in names]


def refusal_of(encoder: ContentEncoder, contents: Sequence[Content]) -> EncodersFull:
    with pytest.raises(EncodersFull) as caught:
        encoder.encode_many(contents)
    return caught.value


def test_all_contents_of_a_call_are_admitted_or_none(encoder: ContentEncoder, source: Source) -> None:
    encoder.encode_many(texts("ab"))
    refusal = refusal_of(encoder, texts("cd"))
    for part in ("text_encoder (encoder_queue)", "costs 2", "2 wait", "limit is 3"):
        assert part in str(refusal)
    assert refusal.retry_after_s > 0
    assert set(source.futures) == {"a", "b"}
    (alone,) = encoder.encode_many(texts("c"))
    source.settle()
    assert alone.result(0)[0] == 1


def test_images_that_do_not_fit_keep_the_texts_of_the_call_out_too(encoder: ContentEncoder, source: Source) -> None:
    encoder.encode_many(images("xyz"))
    assert refusal_of(encoder, [*texts("ab"), *images("w")]).name == "image_encoder (encoder_queue)"
    assert refusal_of(encoder, [Content("a", b"w")]).name == "image_encoder (encoder_queue)"
    assert set(source.futures) == {b"x", b"y", b"z"}
    encoder.encode_many(texts("abc"))
    source.settle()
    both = encoder.encode(Content("a", b"w"))
    source.settle()
    assert both.result(0)[0] == 1


def test_what_is_cached_or_on_its_way_costs_nothing(
    encoder: ContentEncoder, source: Source, admission: Admission
) -> None:
    encoder.encode_many(texts("abc"))
    source.settle()
    encoder.encode_many(texts("def"))
    futures = encoder.encode_many(texts("abcdef"))
    assert admission.items == 3
    source.settle()
    assert [future.result(0)[0] for future in futures] == [1] * 6
    assert admission.items == 0


def test_what_fails_leaves_its_room(encoder: ContentEncoder, source: Source, admission: Admission) -> None:
    encoder.encode_many(texts("a"))
    source.futures.pop("a").set_exception(RuntimeError())
    assert admission.items == 0

    def broken(contents: Sequence[object]) -> list[Future[np.ndarray]]:
        raise MemoryError

    source.submit_many = broken  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        encoder.encode_many([*texts("ab"), *images("x")])
    assert admission.items == 0


def test_more_than_the_limit_goes_alone(encoder: ContentEncoder, source: Source) -> None:
    futures = encoder.encode_many(texts("abcde"))
    refusal_of(encoder, texts("f"))
    source.settle()
    assert [future.result(0)[0] for future in futures] == [1] * 5
    encoder.encode_many(texts("f"))
    refusal_of(encoder, texts("vwxyz"))


def test_bytes_are_those_of_utf_8_and_their_bound_is_named(encoder: ContentEncoder) -> None:
    encoder.encode_text("ä" * 30)
    refusal = refusal_of(encoder, [Content(text="ö" * 21)])
    for part in ("text_encoder (encoder_queue_bytes)", "costs 42", "60 wait", "limit is 100"):
        assert part in str(refusal)
    encoder.encode_text("ö" * 20)


def test_room_is_there_once_what_was_refused_would_be_admitted(encoder: ContentEncoder, source: Source) -> None:
    encoder.encode_many(texts("abc"))
    room = encoder.room(refusal_of(encoder, texts("de")))
    source.settle("a")
    assert not room.done()
    source.settle("b")
    assert room.result(0) is None
    encoder.encode_many(texts("de"))


def test_room_that_came_between_refusal_and_question_is_not_missed(encoder: ContentEncoder, source: Source) -> None:
    encoder.encode_many(texts("abc"))
    refusal = refusal_of(encoder, texts("de"))
    source.settle()
    assert encoder.room(refusal).done()


def test_small_ones_behind_do_not_keep_a_large_one_out(admission: Admission) -> None:
    one, many = Load(texts=1), Load(texts=9)
    admission.enter(one)
    admission.enter(one)
    large, small = admission.room(many), admission.room(Load(texts=3))
    admission.leave(one)
    assert not large.done()
    assert not small.done()
    admission.leave(one)
    assert large.done()
    assert small.done()


def test_who_gives_up_waiting_holds_up_nobody(admission: Admission) -> None:
    for _ in range(3):
        admission.enter(Load(texts=1))
    gone, stays = admission.room(Load(texts=3)), admission.room(Load(texts=1))
    assert gone.cancel()
    admission.leave(Load(texts=1))
    assert stays.done()


def test_callers_from_many_threads_pass_no_bound_and_lose_nothing() -> None:
    source, admission = Source(), Admission(LIMITS, LIMITS)
    most, lock = 0, threading.Lock()

    def counted(contents: Sequence[object]) -> list[Future[np.ndarray]]:
        nonlocal most
        with lock:
            most = max(most, admission.items)
        new: list[Future[np.ndarray]] = [Future() for _ in contents]
        for future in new:
            future.set_result(VECTOR)
        return new

    source.submit_many = counted  # type: ignore[method-assign]
    encoder = ContentEncoder(source, source, EncoderVersions("1", "1"), VectorCache(0), admission)
    answered: list[int] = []

    def call(names: str) -> None:
        for _ in range(50):
            while True:
                try:
                    futures = encoder.encode_many(texts(names))
                except EncodersFull as refusal:
                    encoder.room(refusal).result(10)
                else:
                    break
            answered.append(sum(future.exception(10) is None for future in futures))

    threads = [threading.Thread(target=call, args=(names,)) for names in ("ab", "bc", "ca", "abcd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(answered) == 50 * (2 + 2 + 2 + 4)
    assert most <= 4
    assert admission.items == 0
