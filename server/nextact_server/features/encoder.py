"""Contents to vectors: each hashed, looked up in the cache, and computed once if nobody has it."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nextact_server.features.admission import Admission, EncodersFull, Load
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
    goes on for the cache. A failed one holds ContentError (the content is at fault) or BatcherClosed.

    What a call brings is admitted whole or, with EncodersFull, not at all; contents in the cache, or on their way for
    somebody else, cost nothing.
    """

    def __init__(
        self,
        text: TextSource,
        image: ImageSource,
        versions: EncoderVersions,
        cache: VectorCache,
        admission: Admission | None = None,
        *,
        max_text_bytes: int = 64 * 1024,
        max_text_setting: str = "max_text_bytes",
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._text = text
        self._image = image
        self._cache = cache
        self._admission = admission or Admission()
        self._claiming = threading.Lock()
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
        """Encode a text. Raises as `encode_many`."""
        return self.encode(Content(text=text))

    def encode_image(self, data: bytes) -> Future[Vector]:
        """Encode an encoded image (JPEG, PNG, WebP). Raises as `encode_many`."""
        return self.encode(Content(image=data))

    def encode(self, content: Content) -> Future[Vector]:
        """Encode one content. Raises as `encode_many`."""
        return self.encode_many((content,))[0]

    def encode_many(self, contents: Sequence[Content]) -> list[Future[Vector]]:
        """Encode contents, each with a future of its own, in order; a bad one never fails another.

        Raises EncodersFull if there is no room for all that is to be computed; then nothing was started.
        """
        return [encoding.vector for encoding in self.encode_hashed(contents)]

    def encode_hashed(self, contents: Sequence[Content]) -> list["Encoding"]:
        """As `encode_many`, with the hash of each beside its future, hashed once. Raises as `encode_many`."""
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

    def room(self, refusal: EncodersFull) -> Future[None]:
        """Return a future that is done once what was refused would be admitted: then one asks again."""
        return self._admission.room(refusal.load)

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
        claim = self._claim(contents)
        started = 0
        try:
            if claim.texts:
                self._follow(claim.texts, self._text.submit_many([text for _, text in claim.texts]))
                started = len(claim.texts)
            if claim.images:
                self._follow(claim.images, self._image.submit_many([image for _, image in claim.images]))
                started = len(claim.singles)
        except BaseException as error:  # somebody else may already wait for what was claimed here
            for key, data in claim.singles[started:]:
                self._admission.leave(Load.of((data,)))
                self._cache.fail(key, error)
            self._join(claim)
            raise
        self._join(claim)
        return claim.futures

    def _claim(self, contents: Sequence["_Parts"]) -> "_Claim":
        """Claim contents and, of those with text and image, the parts too; raises EncodersFull with nothing claimed."""
        with self._claiming:  # nobody may join what is given up again
            futures, mine = self._cache.claim([parts[-1][0] for parts in contents])
            claimed = [contents[place] for place in mine]
            pairs = [parts for parts in claimed if len(parts) == 3]
            parts_of_pairs = [part for parts in pairs for part in parts[:2]]
            halves, new = self._cache.claim([key for key, _ in parts_of_pairs]) if pairs else ([], [])
            singles = [parts[0] for parts in claimed if len(parts) == 1] + [parts_of_pairs[place] for place in new]
            claim = _Claim(
                futures,
                [(key, data) for key, data in singles if isinstance(data, str)],
                [(key, data) for key, data in singles if isinstance(data, bytes)],
                [parts[-1][0] for parts in pairs],
                halves,
            )
            if not singles:
                return claim
            try:
                self._admission.enter(Load.of([data for _, data in claim.singles]))
            except BaseException as refusal:
                for key in (*(key for key, _ in claim.singles), *claim.pairs):
                    self._cache.fail(key, refusal)
                raise
            return claim

    def _follow(self, singles: Sequence[tuple[ContentHash, str | bytes]], started: Sequence[Future[Vector]]) -> None:
        for (key, data), future in zip(singles, started, strict=True):
            future.add_done_callback(partial(self._keep, key, Load.of((data,))))

    def _keep(self, key: ContentHash, load: Load, done: Future[Vector]) -> None:
        self._admission.leave(load)
        error = done.exception()
        if error is not None:
            self._cache.fail(key, error)
        else:
            self._cache.settle(key, done.result())

    def _join(self, claim: "_Claim") -> None:
        """Follow the parts of contents with both; somebody else may have begun one of them."""
        for key, text, image in zip(claim.pairs, claim.halves[::2], claim.halves[1::2], strict=True):
            text.add_done_callback(partial(self._text_done, key, image))

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


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one call has to compute: texts, images, and the wholes of pairs, whose halves (text, image, ...) come."""

    futures: list[Future[Vector]]
    texts: "list[tuple[ContentHash, str]]"
    images: "list[tuple[ContentHash, bytes]]"
    pairs: list[ContentHash]
    halves: list[Future[Vector]]

    @property
    def singles(self) -> "list[tuple[ContentHash, str | bytes]]":
        return [*self.texts, *self.images]


_Part = tuple[ContentHash, str | bytes | None]
_Parts = list[_Part]


def _seed(kind: bytes, version: str) -> "hashlib.blake2b":
    return hashlib.blake2b(kind + version.encode() + b"\0", digest_size=HASH_BYTES)


def _hash(seed: "hashlib.blake2b", data: bytes) -> ContentHash:
    hasher = seed.copy()
    hasher.update(data)
    return hasher.digest()
