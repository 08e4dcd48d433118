"""128-bit hashes of Arrow string columns, computed over the column's buffers.

Each row is read as little-endian 64-bit words, the last one filled up with zeros. In each of two lanes a word is
multiplied by an odd number of its own position and mixed by multiply-xorshift rounds (those of MurmurHash3's
finaliser); a row's words are summed, and the sum is finalised with the length. A zero word contributes zero, so the
hash of a row does not depend on what it was padded to, and the length tells "a" from "a\\0".

The hash is for identity among ids of trusted callers: 128 bits against accidents, no defence against forged collisions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    StringArray: TypeAlias = pa.Array[Any]
else:  # generic in pyarrow's stubs only
    StringArray = pa.Array
"""A string, large_string, binary or large_binary array, or a dictionary array of one of them."""

_U64 = (1 << 64) - 1
# Odd multipliers with balanced bits. Lane by lane: first position, step between positions, two rounds, length, seed.
_POSITION = np.array([[0x9E3779B97F4A7C15], [0xC2B2AE3D27D4EB4F]], dtype=np.uint64)
_STEP = np.array([[0xD1B54A32D192ED02], [0x8CB92BA72F3D8DD6]], dtype=np.uint64)  # even: the sum with _POSITION is odd
_ROUND_1 = np.array([[0xFF51AFD7ED558CCD], [0xBF58476D1CE4E5B9]], dtype=np.uint64)
_ROUND_2 = np.array([[0xC4CEB9FE1A85EC53], [0x94D049BB133111EB]], dtype=np.uint64)
_LENGTH = np.array([[0xA0761D6478BD642F], [0xE7037ED1A0B428DB]], dtype=np.uint64)
_SEED = (0x8EBC6AF09C88C6E3, 0x589965CC75374CC3)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(32), np.uint64(29), np.uint64(32)
_ALL_ONES = np.uint64(_U64)

_SHORT_ROWS = 512
"""Rows up to which columns are hashed together: beyond, a call's own cost no longer matters."""
_BLOCK_WORDS = 1 << 16
"""Most words that are spread out at once, rows times width: 0.5 MiB a lane."""


def hash_strings(array: StringArray, seed: int = 0) -> NDArray[np.uint64]:
    """Hashes each row of a string or binary column to 128 bits.

    Args:
        array: n rows; a slice will do. A null hashes like the empty string; a dictionary is hashed once and taken.
        seed: at most 128 bits; different seeds give unrelated hashes of the same strings.

    Returns:
        uint64 [n, 2], the same on every platform and in every run.

    Raises:
        TypeError: the column is not of strings or bytes.
    """
    if pa.types.is_dictionary(array.type):
        return _hash_dictionary(array, seed)
    return _hashed(array, np.array(_seed_lanes(seed), np.uint64)[:, None])


def _seed_lanes(seed: int) -> tuple[int, int]:
    return (seed ^ _SEED[0]) & _U64, ((seed >> 64) ^ _SEED[1]) & _U64


def _hashed(array: StringArray, seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes [n, 2] of rows, with seeds [2, n] or [2, 1]."""
    starts, lengths, data = _rows(array)
    width = (int(lengths.max(initial=0)) + 7) >> 3
    if width * len(lengths) <= _BLOCK_WORDS:
        sums = _sums(starts, lengths, data, width)
    else:
        sums = _sums_by_width(starts, lengths, data)
    sums += lengths.astype(np.uint64) * _LENGTH
    sums ^= seeds
    return np.ascontiguousarray(_mixed(sums).T)


def hash_columns(arrays: Sequence[StringArray], seeds: Sequence[int]) -> list[NDArray[np.uint64]]:
    """As `hash_strings` of each column, each with its seed, in one pass: short columns cost little more than one.

    The columns are of one type, `string`, and not dictionaries.
    """
    if sum(len(array) for array in arrays) > _SHORT_ROWS:
        return [hash_strings(array, seed) for array, seed in zip(arrays, seeds, strict=True)]
    lengths = [len(array) for array in arrays]
    lanes = np.array([_seed_lanes(seed) for seed in seeds], np.uint64).T
    keys = _hashed(pa.concat_arrays(arrays), np.repeat(lanes, lengths, axis=1))
    return np.split(keys, np.cumsum(lengths[:-1]))


def combine(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes pairs of hashes [n, 2] (or [1, 2], for all rows) to [n, 2]; the order of the two matters."""
    first = a * _LENGTH.T
    first ^= first >> _SHIFT_1
    mixed = first + b
    mixed ^= mixed >> _SHIFT_2
    mixed *= _ROUND_1.T
    mixed ^= mixed >> _SHIFT_1
    mixed *= _ROUND_2.T
    mixed ^= mixed >> _SHIFT_3
    return mixed


def byte_lengths(array: StringArray) -> NDArray[np.int64]:
    """Lengths of the rows in bytes, int64 [n]; 0 for a null. Takes the same columns as `hash_strings`."""
    if not pa.types.is_dictionary(array.type):
        return _rows(array)[1]
    dictionary_array: Any = array
    codes, nulls = _codes(dictionary_array)
    lengths = byte_lengths(dictionary_array.dictionary)
    taken = lengths.take(codes) if len(lengths) else np.zeros(len(codes), np.int64)
    if nulls is not None:
        taken[nulls] = 0
    return taken


def _mixed(lanes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalises [2, n] in place."""
    lanes ^= lanes >> _SHIFT_1
    lanes *= _ROUND_1
    lanes ^= lanes >> _SHIFT_2
    lanes *= _ROUND_2
    lanes ^= lanes >> _SHIFT_3
    return lanes


def _sums(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], data: NDArray[np.uint8], width: int, first: int = 0
) -> NDArray[np.uint64]:
    """Sums [2, n] of the mixed words first..first+width of each row."""
    if not width:
        return np.zeros((2, len(lengths)), np.uint64)
    positions = np.arange(first, first + width)
    # Overlapping view: a 64-bit word begins at every byte. Words behind the end of the data belong to no row.
    words_at = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    offsets = (positions << 3)[:, None]
    index = starts + offsets
    if first or index[-1].max() >= len(words_at):
        np.minimum(index, len(words_at) - 1, out=index)
    words = words_at[index]
    padding = (64 + (offsets << 3)) - (lengths << 3)
    words &= _ALL_ONES >> np.maximum(padding, 0, out=padding).view(np.uint64)  # a shift by 64 or more gives 0
    multipliers = _POSITION + _STEP * positions.astype(np.uint64)
    mixed = words * multipliers[:, :, None]
    mixed ^= mixed >> _SHIFT_1
    mixed *= _ROUND_1[:, :, None]
    mixed ^= mixed >> _SHIFT_2
    mixed *= _ROUND_2[:, :, None]
    mixed ^= mixed >> _SHIFT_3
    sums: NDArray[np.uint64] = mixed[:, 0] if width == 1 else np.add.reduce(mixed, axis=1)
    return sums


def _sums_by_width(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], data: NDArray[np.uint8]
) -> NDArray[np.uint64]:
    """As `_sums`, over rows of like width at a time and in bounded blocks: one long row does not widen the others."""
    sums = np.zeros((2, len(lengths)), np.uint64)
    widths = (lengths + 7) >> 3
    classes = np.frexp(widths - 0.5)[1]  # ceil(log2(width)); exact, as widths are far below 2**53
    for row_class in np.unique(classes[widths > 0]):
        rows = np.flatnonzero((classes == row_class) & (widths > 0))
        width = int(widths[rows].max())
        step = max(1, _BLOCK_WORDS // width)
        for at in range(0, len(rows), step):
            block = rows[at : at + step]
            for first in range(0, width, _BLOCK_WORDS):
                columns = min(_BLOCK_WORDS, width - first)
                sums[:, block] += _sums(starts[block], lengths[block], data, columns, first)
    return sums


def _rows(array: StringArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Starts [n] and lengths [n] in the returned bytes, which have at least 8 to spare behind the last row."""
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.int64), np.zeros(len(array), np.int64), np.zeros(8, np.uint8)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        offset_type: np.dtype[Any] = np.dtype("<i4")
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        offset_type = np.dtype("<i8")
    else:
        raise TypeError(f"expected a column of string, binary or a dictionary of them, got {kind}")
    buffers: list[Any] = array.buffers()
    validity, offset_buffer, data_buffer = buffers
    n, skip = len(array), array.offset
    if not n:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(8, np.uint8)
    offsets = np.frombuffer(offset_buffer, offset_type, n + 1, skip * offset_type.itemsize).astype(np.int64)
    base, end = int(offsets[0]), int(offsets[-1])
    data = np.zeros(end - base + 8, np.uint8)
    if end > base:
        data[:-8] = np.frombuffer(data_buffer, np.uint8, end - base, base)
    starts = offsets[:-1] - base
    lengths = np.diff(offsets)
    if array.null_count:
        # The bytes under a null are not specified.
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), count=skip + n, bitorder="little")
        lengths *= bits[skip:]
    return starts, lengths, data


def _codes(array: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Indices [n] into the dictionary, 0 where null, and where that is (None: nowhere)."""
    indices = array.indices
    if not indices.null_count:
        return indices.to_numpy().astype(np.int64, copy=False), None
    nulls = indices.is_null().to_numpy(zero_copy_only=False)
    return indices.fill_null(0).to_numpy().astype(np.int64, copy=False), nulls


def _hash_dictionary(array: Any, seed: int) -> NDArray[np.uint64]:
    codes, nulls = _codes(array)
    values = array.dictionary
    if len(values) > len(codes):
        # A dictionary shared by many batches: hash only what this one uses, and nothing twice.
        used, codes = np.unique(codes if nulls is None else codes[~nulls], return_inverse=True)
        values = values.take(pa.array(used))
        if nulls is not None:
            spread = np.zeros(len(nulls), np.int64)
            spread[~nulls] = codes
            codes = spread
    hashes = hash_strings(values, seed)
    if nulls is None:
        return hashes.take(codes, axis=0)
    hashes = np.concatenate([hashes, hash_strings(pa.array([""]), seed)])  # the row behind the last stands for null
    return hashes.take(np.where(nulls, len(values), codes), axis=0)
