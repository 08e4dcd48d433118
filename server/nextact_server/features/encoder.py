"""Contents to vectors: each hashed, looked up in the cache, and computed once if nobody has it."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nextact_server.features.cache import ContentHash, VectorCache
from nextact_server.features.errors import ContentError
from nextact_server.features.vectors import CONTENT_DIM, Vector, mean_direction

__all__ = ["Content", "ContentEncoder", "EncoderVersions", "Encoding", "ImageSource", "TextSource"]

HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Content:
    """What an item or an event shows: a text, an encoded image, or both. Empty ones count as missing."""

    text: str | None = None
    image: bytes | None = None


class TextSource(Protocol):
    """Computes vectors of texts; what cannot be computed is a failed future, never an exception."""

    def submit_many(self, texts: Sequence[str]) -> list[Future[Vector]]:
        """Start on texts that the cache does not hold."""


class ImageSource(Protocol):
    """Computes vectors of encoded images; what cannot be computed is a failed future, never an exception."""

    def submit_many(self, images: Sequence[bytes]) -> list[Future[Vector]]:
        """Start on images that the cache does not hold."""


@dataclass(frozen=True, slots=True)
class EncoderVersions:
    """What the vectors depend on (weights, projection, preprocessing): none is good for another version."""

    text: str
    image: str


class ContentEncoder:
    """Gives each content its vector: float32 [384], at length 1, read-only.

    Contents are known by a hash of 16 bytes (BLAKE2b over kind, encoder version and bytes), so a vector that was stored
    under its hash is good for exactly the encoders that are loaded. One with text and image has the mean direction of
    both, and is cached as a whole besides its parts.

    Futures are done on internal threads: a callback must be short. Cancelling one is the caller's own affair, the work
    goes on for the cache. A failed one holds ContentError (the content is at fault), QueueFull or BatcherClosed.
    """

    def __init__(
        self,
        text: TextSource,
        image: ImageSource,
        versions: EncoderVersions,
        cache: VectorCache,
        *,
        max_text_bytes: int = 64 * 1024,
        max_text_setting: str = "max_text_bytes",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._text = text
        self._image = image
        self._cache = cache
        self._max_text_bytes = max_text_bytes
        self._max_text_setting = max_text_setting
        self._close = close
        self.versions = versions
        self._text_seed = _seed(b"t", versions.text)
        self._image_seed = _seed(b"i", versions.image)
        self._both_seed = _seed(b"b", "mean")

    def hash_of(self, content: Content) -> ContentHash:
        """Return the hash a content is known by. Raises ContentError if it is empty or its text breaks a limit."""
        return self._parts(content)[-1][0]

    def encode_text(self, text: str) -> Future[Vector]:
        """Encode a text."""
        return self.encode(Content(text=text))

    def encode_image(self, data: bytes) -> Future[Vector]:
        """Encode an encoded image (JPEG, PNG, WebP)."""
        return self.encode(Content(image=data))

    def encode(self, content: Content) -> Future[Vector]:
        """Encode one content."""
        return self.encode_many((content,))[0]

    def encode_many(self, contents: Sequence[Content]) -> list[Future[Vector]]:
        """Encode contents, each with a future of its own, in order; a bad one never fails another."""
        return [encoding.vector for encoding in self.encode_hashed(contents)]

    def encode_hashed(self, contents: Sequence[Content]) -> list["Encoding"]:
        """As `encode_many`, with the hash of each beside its future, hashed once."""
        encodings: list[Encoding | None] = []
        places: list[int] = []
        parts: list[_Parts] = []
        for place, content in enumerate(contents):
            try:
                parts.append(self._parts(content))
            except ContentError as error:
                refused: Future[Vector] = Future()
                refused.set_exception(error)
                encodings.append(Encoding(None, refused))
            else:
                places.append(place)
                encodings.append(None)
        for place, part, future in zip(places, parts, self._start(parts), strict=True):
            encodings[place] = Encoding(part[-1][0], future)
        return [encoding for encoding in encodings if encoding is not None]

    def cached(self, key: ContentHash) -> Vector | None:
        """Return the vector of a content that is in the cache."""
        return self._cache.get(key)

    def cached_many(self, keys: Sequence[ContentHash]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Look up many: float32 [n, 384], zero where missing, and bool [n], where found."""
        matrix = np.zeros((len(keys), CONTENT_DIM), np.float32)
        found = np.zeros(len(keys), np.bool_)
        for place, vector in enumerate(self._cache.get_many(keys)):
            if vector is not None:
                matrix[place] = vector
                found[place] = True
        return matrix, found

    def preload(self, key: ContentHash, vector: Vector) -> None:
        """Put a stored vector back into the cache. Raises ValueError if it is not of this content space."""
        self.preload_many(((key, vector),))

    def preload_many(self, entries: Iterable[tuple[ContentHash, Vector]]) -> None:
        """Put stored vectors back into the cache. Raises ValueError as `preload` does, and then keeps none."""
        checked = list(entries)
        for key, vector in checked:
            if len(key) != HASH_BYTES or vector.shape != (CONTENT_DIM,):
                raise ValueError(
                    f"a stored vector needs a hash of {HASH_BYTES} bytes and shape ({CONTENT_DIM},), "
                    f"not {len(key)} bytes and {vector.shape}"
                )
        self._cache.put_many(checked)

    def close(self) -> None:
        """Finish what was begun, then free the models."""
        self._close()

    def _parts(self, content: Content) -> "_Parts":
        """Hash a content and its parts; the last entry is the whole."""
        parts: _Parts = []
        if content.text:
            parts.append((self._hash_text(content.text), content.text))
        if content.image:
            parts.append((_hash(self._image_seed, content.image), content.image))
        if not parts:
            raise ContentError("content", "has neither text nor image")
        if len(parts) == 2:
            parts.append((_hash(self._both_seed, parts[0][0] + parts[1][0]), None))
        return parts

    def _hash_text(self, text: str) -> ContentHash:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ContentError("text", f"is not valid Unicode: {error.reason} at {error.start}") from error
        if len(data) > self._max_text_bytes:
            raise ContentError(
                "text",
                f"has {len(data)} bytes, over the limit of {self._max_text_bytes}; {self._max_text_setting} raises it",
            )
        return _hash(self._text_seed, data)

    def _start(self, contents: Sequence["_Parts"]) -> list[Future[Vector]]:
        """Claim contents in the cache and start on those that are nobody's yet."""
        futures, claimed = self._cache.claim([parts[-1][0] for parts in contents])
        if not claimed:
            return futures
        mine = [contents[place] for place in claimed]
        try:
            self._compute([parts[0] for parts in mine if len(parts) == 1])
            self._join([parts for parts in mine if len(parts) == 3])
        except BaseException as error:  # somebody else may already wait for what was claimed here
            for parts in mine:
                self._cache.fail(parts[-1][0], error)
            raise
        return futures

    def _compute(self, singles: Sequence["_Part"]) -> None:
        texts = [(key, data) for key, data in singles if isinstance(data, str)]
        images = [(key, data) for key, data in singles if isinstance(data, bytes)]
        started = [
            *zip(texts, self._text.submit_many([data for _, data in texts]) if texts else (), strict=True),
            *zip(images, self._image.submit_many([data for _, data in images]) if images else (), strict=True),
        ]
        for (key, _), future in started:
            future.add_done_callback(partial(self._keep, key))

    def _keep(self, key: ContentHash, done: Future[Vector]) -> None:
        error = done.exception()
        if error is not None:
            self._cache.fail(key, error)
        else:
            self._cache.settle(key, done.result())

    def _join(self, pairs: Sequence["_Parts"]) -> None:
        """Compute contents with both parts, whose parts may be in the cache, or on their way for somebody else."""
        if not pairs:
            return
        halves = self._start([[part] for parts in pairs for part in parts[:2]])
        for parts, text, image in zip(pairs, halves[::2], halves[1::2], strict=True):
            text.add_done_callback(partial(self._text_done, parts[-1][0], image))

    def _text_done(self, key: ContentHash, image: Future[Vector], text: Future[Vector]) -> None:
        image.add_done_callback(partial(self._keep_mean, key, text))

    def _keep_mean(self, key: ContentHash, text: Future[Vector], image: Future[Vector]) -> None:
        error = text.exception() or image.exception()
        if error is not None:
            self._cache.fail(key, error)
        else:
            self._cache.settle(key, mean_direction(text.result(), image.result()))


@dataclass(frozen=True, slots=True)
class Encoding:
    """A content on its way: its hash (None if it has none, being empty or over a limit) and the future vector."""

    key: ContentHash | None
    vector: Future[Vector]


_Part = tuple[ContentHash, str | bytes | None]
_Parts = list[_Part]


def _seed(kind: bytes, version: str) -> "hashlib.blake2b":
    return hashlib.blake2b(kind + version.encode() + b"\0", digest_size=HASH_BYTES)


def _hash(seed: "hashlib.blake2b", data: bytes) -> ContentHash:
    hasher = seed.copy()
    hasher.update(data)
    return hasher.digest()
