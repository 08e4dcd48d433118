"""How contents reach a batcher: prepared on threads that are not the batcher's, handed on together."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from nextact_server.features.vectors import Vector
from nextact_server.inference.batcher import Batcher, BatcherClosed, QueueFull
from nextact_server.inference.cores import CoreBudget

__all__ = ["ImageIntake", "TextIntake"]

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]
P = TypeVar("P")


class _HandOn(Generic[P]):
    """Prepared items, each with the future it was promised, to the batcher and back.

    They were admitted already, so a full batcher refuses none of them: the preparing thread waits for room.
    """

    def __init__(self, batcher: Batcher[P, Vector]) -> None:
        self._batcher = batcher

    def __call__(self, items: Sequence[tuple[P, Future[Vector]]]) -> None:
        if not items:
            return
        try:
            answers = self._batcher.submit_many([prepared for prepared, _ in items])
        except QueueFull:
            for prepared, future in items:
                self._when_room(prepared, future)
        except Exception as refused:  # closed: everyone hears of it, and the preparing thread goes on
            for _, future in items:
                future.set_exception(refused)
        else:
            for answer, (_, future) in zip(answers, items, strict=True):
                answer.add_done_callback(partial(_pass_on, future))

    def _when_room(self, prepared: P, future: Future[Vector]) -> None:
        while True:
            try:
                answer = self._batcher.submit(prepared)
            except QueueFull as full:
                try:
                    self._batcher.room(full.cost).result()
                except Exception as refused:  # closed meanwhile, or it can never fit
                    future.set_exception(refused)
                    return
            except Exception as refused:
                future.set_exception(refused)
                return
            else:
                answer.add_done_callback(partial(_pass_on, future))
                return


class ImageIntake:
    """Decodes images in a small pool, with cores from the budget that the models use too.

    Decoded images are handed on when a batch of them is ready, or as soon as no further image waits to be decoded: so a
    flood makes full batches, a single image waits for nothing, and there is no timer.

    Args:
        decode: encoded bytes to pixels; raises what the caller is told.
        batcher: where pixels go; closed by its owner, after this.
        threads: size of the pool.
        cores: each decoding thread takes one of these while it decodes.
        batch: how many images are handed on together.
        decoded: most images that may lie decoded and unanswered, some 150 KB each.
    """

    def __init__(
        self,
        decode: Callable[[bytes], Pixels],
        batcher: Batcher[Pixels, Vector],
        *,
        threads: int,
        cores: CoreBudget,
        batch: int = 16,
        decoded: int | None = None,
    ) -> None:
        self._decode = decode
        self._name = batcher.name
        self._hand_on = _HandOn(batcher)
        self._cores = cores
        self._batch = batch
        # Always room for more than a batch that gathers and one image per decoder, or nobody could go on.
        self._slots = threading.Semaphore(max(decoded or 4 * batch, batch + threads))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._undecoded = 0
        self._ready: list[tuple[Pixels, Future[Vector]]] = []

    def submit_many(self, images: Sequence[bytes]) -> list[Future[Vector]]:
        """Take images; each future gets its vector, or a ContentError, or whatever refused or broke it."""
        return [self._submit(data) for data in images]

    def close(self) -> None:
        """Decode and hand on what was taken, then stop."""
        self._pool.shutdown(wait=True)

    def _submit(self, data: bytes) -> Future[Vector]:
        future: Future[Vector] = Future()
        with self._lock:
            self._undecoded += 1
        try:
            self._pool.submit(self._work, data, future)
        except RuntimeError:  # the pool is shut
            with self._lock:
                self._undecoded -= 1
            future.set_exception(BatcherClosed(self._name))
        return future

    def _work(self, data: bytes, future: Future[Vector]) -> None:
        self._slots.acquire()
        with self._lock:
            self._undecoded -= 1
            gathered = self._take_ready()  # what is ready does not wait for an image that takes long to decode
        self._hand_on(gathered)
        try:
            with self._cores.use(1):
                pixels = self._decode(data)
        except BaseException as error:  # also MemoryError: somebody waits for this future
            self._slots.release()
            future.set_exception(error)
            return
        future.add_done_callback(lambda _: self._slots.release())
        with self._lock:
            self._ready.append((pixels, future))
            gathered = self._take_ready()
        self._hand_on(gathered)

    def _take_ready(self) -> list[tuple[Pixels, Future[Vector]]]:
        if self._undecoded and len(self._ready) < self._batch:
            return []
        ready, self._ready = self._ready, []
        return ready


class TextIntake:
    """Tokenizes on one thread of its own, so that a long text never holds up the thread that brought it."""

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], Sequence[Tokens]],
        batcher: Batcher[Tokens, Vector],
        *,
        cores: CoreBudget,
    ) -> None:
        self._tokenize = tokenize
        self._name = batcher.name
        self._hand_on = _HandOn(batcher)
        self._cores = cores
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    def submit_many(self, texts: Sequence[str]) -> list[Future[Vector]]:
        """Take texts; each future gets its vector, or whatever refused or broke it. They go on together."""
        futures: list[Future[Vector]] = [Future() for _ in texts]
        taken = list(zip(texts, futures, strict=True))
        try:
            self._pool.submit(self._work, taken)
        except RuntimeError:  # the pool is shut
            for future in futures:
                future.set_exception(BatcherClosed(self._name))
        return futures

    def close(self) -> None:
        """Tokenize and hand on what was taken, then stop."""
        self._pool.shutdown(wait=True)

    def _work(self, taken: Sequence[tuple[str, Future[Vector]]]) -> None:
        try:
            with self._cores.use(1):
                tokens = self._tokenize([text for text, _ in taken])
        except BaseException as error:
            for _, future in taken:
                future.set_exception(error)
            return
        self._hand_on([(one, future) for one, (_, future) in zip(tokens, taken, strict=True)])


def _pass_on(future: Future[Vector], done: Future[Vector]) -> None:
    error = done.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
