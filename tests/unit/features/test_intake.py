import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import pytest

from nextact_server.features.errors import ContentError
from nextact_server.features.intake import ImageIntake, TextIntake
from nextact_server.inference.batcher import Batcher, BatcherClosed, QueueFull
from nextact_server.inference.cores import CoreBudget


def decode(data: bytes) -> np.ndarray:
    if data == b"bad":
        raise ContentError("image", "is bad")
    return np.full((2, 2, 3), data[0], np.uint8)


class Model:
    """Gives back what it got and remembers the batches; can be held up."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def run(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.busy.set()
        assert self.go.wait(10)
        self.batches.append(len(images))
        return [np.array([image.flat[0]], np.float32) for image in images]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher[np.ndarray, np.ndarray]]:
    with Batcher("images", model.run, max_cost=4, max_queue_cost=100) as batcher:
        yield batcher


def image_intake(batcher: Batcher[np.ndarray, np.ndarray], **changes: object) -> ImageIntake:
    options: dict[str, object] = {"threads": 2, "cores": CoreBudget(2), "batch": 4}
    return ImageIntake(**{"decode": decode, "batcher": batcher, **options, **changes})  # type: ignore[arg-type]


def values(futures: Sequence[Future[np.ndarray]]) -> list[float]:
    return [float(future.result(10)[0]) for future in futures]


def test_images_come_back_in_the_order_they_were_given(batcher: Batcher[np.ndarray, np.ndarray]) -> None:
    intake = image_intake(batcher)
    assert values(intake.submit_many([bytes([n]) for n in range(50)])) == list(range(50))
    intake.close()


def test_a_bad_image_fails_alone(batcher: Batcher[np.ndarray, np.ndarray]) -> None:
    intake = image_intake(batcher)
    good, bad, last = intake.submit_many([b"\1", b"bad", b"\2"])
    assert isinstance(bad.exception(10), ContentError)
    assert values([good, last]) == [1, 2]
    intake.close()


def test_a_flood_makes_full_batches(batcher: Batcher[np.ndarray, np.ndarray], model: Model) -> None:
    everyone_is_here = threading.Event()

    def decode_when_all_wait(data: bytes) -> np.ndarray:
        assert everyone_is_here.wait(10)
        return decode(data)

    intake = image_intake(batcher, decode=decode_when_all_wait, threads=1)
    futures = intake.submit_many([bytes([n]) for n in range(12)])
    everyone_is_here.set()
    assert values(futures) == list(range(12))
    assert model.batches == [4, 4, 4]
    intake.close()


def test_what_is_decoded_does_not_wait_for_an_image_that_takes_long(batcher: Batcher[np.ndarray, np.ndarray]) -> None:
    finish = threading.Event()

    def slow_for_nine(data: bytes) -> np.ndarray:
        if data == b"\x09":
            assert finish.wait(10)
        return decode(data)

    intake = image_intake(batcher, decode=slow_for_nine)
    quick, slow = intake.submit_many([b"\1", b"\x09"])
    assert values([quick]) == [1]
    assert not slow.done()
    finish.set()
    assert values([slow]) == [9]
    intake.close()


def test_decoding_happens_beside_the_batchers_thread(batcher: Batcher[np.ndarray, np.ndarray], model: Model) -> None:
    names: set[str] = set()

    def watched(data: bytes) -> np.ndarray:
        names.add(threading.current_thread().name)
        return decode(data)

    intake = image_intake(batcher, decode=watched)
    values(intake.submit_many([b"\1", b"\2"]))
    assert names
    assert all(name.startswith("decode") for name in names)
    intake.close()


def test_decoded_images_are_bounded_while_the_model_is_busy(
    batcher: Batcher[np.ndarray, np.ndarray], model: Model
) -> None:
    model.go.clear()
    alive = 0
    most = 0
    lock = threading.Lock()

    def counted(data: bytes) -> np.ndarray:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return decode(data)

    def answered(_: object) -> None:
        nonlocal alive
        with lock:
            alive -= 1

    intake = image_intake(batcher, decode=counted, decoded=8)
    futures = intake.submit_many([bytes([n]) for n in range(60)])
    for future in futures:
        future.add_done_callback(answered)
    assert model.busy.wait(10)
    model.go.set()
    assert values(futures) == list(range(60))
    # A slot is given back just before the caller's own callback runs, hence the two decoders on top.
    assert most <= 8 + 2
    intake.close()


def test_a_full_batcher_holds_up_what_was_decoded_and_refuses_nothing(model: Model) -> None:
    model.go.clear()
    with Batcher("images", model.run, max_cost=1, max_queue_cost=1) as small:
        intake = image_intake(small, batch=1, decoded=20)
        futures = intake.submit_many([bytes([n]) for n in range(10)])
        assert model.busy.wait(10)
        assert not any(future.done() for future in futures)
        model.go.set()
        assert values(futures) == list(range(10))
        intake.close()


def test_texts_that_together_are_more_than_the_batcher_holds_go_on_as_there_is_room(model: Model) -> None:
    with Batcher("texts", model.run, max_cost=2, max_queue_cost=2, cost=len) as small:
        intake = TextIntake(lambda texts: [np.array([ord(text)]) for text in texts], small, cores=CoreBudget(1))
        assert values(intake.submit_many(["a", "b", "c", "d", "e"])) == [97, 98, 99, 100, 101]
        intake.close()


def test_a_text_that_the_batcher_can_never_hold_fails_alone(model: Model) -> None:
    with Batcher("texts", model.run, max_cost=2, max_queue_cost=2, cost=len) as small:
        intake = TextIntake(lambda texts: [np.full(len(text), 7) for text in texts], small, cores=CoreBudget(1))
        large, good = intake.submit_many(["aaa", "a"])
        assert isinstance(large.exception(10), QueueFull)
        assert values([good]) == [7]
        intake.close()


def test_closing_answers_what_was_admitted_and_refuses_the_rest(batcher: Batcher[np.ndarray, np.ndarray]) -> None:
    intake = image_intake(batcher)
    futures = intake.submit_many([bytes([n]) for n in range(9)])
    intake.close()
    assert values(futures) == list(range(9))
    (late,) = intake.submit_many([b"\1"])
    assert isinstance(late.exception(0), BatcherClosed)


def test_texts_of_one_call_leave_together(model: Model) -> None:
    with Batcher("texts", model.run, max_cost=100, max_queue_cost=100) as batcher:
        intake = TextIntake(lambda texts: [np.array([len(text)]) for text in texts], batcher, cores=CoreBudget(1))
        assert values(intake.submit_many(["a", "bb", "ccc"])) == [1, 2, 3]
        assert model.batches == [3]
        intake.close()
        (late,) = intake.submit_many(["a"])
        assert isinstance(late.exception(0), BatcherClosed)


def test_a_tokenizer_that_breaks_tells_everyone_who_waits(model: Model) -> None:
    def broken(texts: Sequence[str]) -> list[np.ndarray]:
        raise RuntimeError("no tokens")

    with Batcher("texts", model.run, max_cost=100, max_queue_cost=100) as batcher:
        intake = TextIntake(broken, batcher, cores=CoreBudget(1))
        for future in intake.submit_many(["a", "b"]):
            assert isinstance(future.exception(10), RuntimeError)
        intake.close()
