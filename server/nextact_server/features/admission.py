"""How much may be on its way to the encoders at once, in items and in bytes."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from nextact_server.inference.batcher import QueueFull

__all__ = ["Admission", "AdmissionLimits", "EncodersFull", "Load"]

TYPICAL_RATE = 200.0
"""Items a second that a guess at when there is room again is made with."""

KINDS = ("text_encoder", "image_encoder")


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Most items (setting `encoder_queue`) and bytes of them (`encoder_queue_bytes`) admitted and not answered yet."""

    items: int = 4096
    size_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Load:
    """What contents ask of the encoders: how many texts and images are to be computed, and their bytes."""

    texts: int = 0
    text_bytes: int = 0
    images: int = 0
    image_bytes: int = 0

    @staticmethod
    def of(contents: Sequence[str | bytes]) -> "Load":
        """Count contents; a text's bytes are those of its UTF-8."""
        texts = [len(one.encode()) for one in contents if isinstance(one, str)]
        images = [len(one) for one in contents if isinstance(one, bytes)]
        return Load(len(texts), sum(texts), len(images), sum(images))


class EncodersFull(QueueFull):
    """An encoder has no room for the contents of a call, none of which was started; `load` is what they ask for."""

    def __init__(self, name: str, limit: int, queued: int, cost: int, retry_after_s: float, load: Load) -> None:
        super().__init__(name, limit, queued, cost, retry_after_s)
        self.load = load


@dataclass(slots=True)
class _Underway:
    """What of one kind is under way."""

    name: str
    limits: AdmissionLimits
    items: int = 0
    size_bytes: int = 0

    def lacks(self, items: int, size: int) -> tuple[str, int, int, int] | None:
        """Why so many more do not fit: the bound's name, the bound, what is under way of it and what is asked.

        Alone they always fit, or what is over a bound would never be computed.
        """
        if not items or not self.items:
            return None
        if self.items + items > self.limits.items:
            return f"{self.name} (encoder_queue)", self.limits.items, self.items, items
        if self.size_bytes + size > self.limits.size_bytes:
            return f"{self.name} (encoder_queue_bytes)", self.limits.size_bytes, self.size_bytes, size
        return None


@dataclass(slots=True, eq=False)
class _Waiting:
    load: Load
    freed: "Future[None]" = field(default_factory=Future)


class Admission:
    """Counts what is under way to both encoders; a call's contents are admitted all together or not at all."""

    def __init__(self, texts: AdmissionLimits | None = None, images: AdmissionLimits | None = None) -> None:
        self._texts = _Underway(KINDS[0], texts or AdmissionLimits())
        self._images = _Underway(KINDS[1], images or AdmissionLimits())
        self._lock = threading.Lock()
        self._line: deque[_Waiting] = deque()

    @property
    def items(self) -> int:
        """How many texts and images are under way."""
        return self._texts.items + self._images.items

    def enter(self, load: Load) -> None:
        """Admit all of it, or raise EncodersFull and admit nothing."""
        with self._lock:
            lack = self._lack(load)
            if lack is None:
                self._add(load, 1)
                return
            underway = self.items
        raise EncodersFull(*lack, max(0.05, underway / 2 / TYPICAL_RATE), load)

    def leave(self, load: Load) -> None:
        """Note that admitted contents were answered."""
        with self._lock:
            self._add(load, -1)
            freed = self._admitted()
        for future in freed:
            try:
                future.set_result(None)
            except InvalidStateError:  # cancelled this very moment: nobody waits any more
                continue

    def room(self, load: Load) -> "Future[None]":
        """Return a future that is done once so much would be admitted; cancelling it leaves the line.

        Room is shown, not reserved: another may take it first, and then one asks again. Who stands in front and asks
        for much holds up those behind, so that small ones do not keep it out for ever.
        """
        waiting = _Waiting(load)
        with self._lock:
            if self._lack(load) is not None:
                self._line.append(waiting)
                return waiting.freed
        waiting.freed.set_result(None)
        return waiting.freed

    def _lack(self, load: Load) -> tuple[str, int, int, int] | None:
        return self._texts.lacks(load.texts, load.text_bytes) or self._images.lacks(load.images, load.image_bytes)

    def _add(self, load: Load, sign: int) -> None:
        self._texts.items += sign * load.texts
        self._texts.size_bytes += sign * load.text_bytes
        self._images.items += sign * load.images
        self._images.size_bytes += sign * load.image_bytes

    def _admitted(self) -> list["Future[None]"]:
        """Take from the head of the line who would be admitted now.

        Each is measured by itself: were the first to give up after being told, the others must not have been left
        waiting for a release that never comes.
        """
        admitted: list[Future[None]] = []
        while self._line and (self._line[0].freed.cancelled() or self._lack(self._line[0].load) is None):
            admitted.append(self._line.popleft().freed)
        return admitted
