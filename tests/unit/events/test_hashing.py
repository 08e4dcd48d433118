"""Hashes of string columns: the same strings give the same 128 bits, however the column holds them."""

import ast
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextact_server.events.hashing import byte_lengths, combine, hash_strings

STRINGS = st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=40)
TYPES = (pa.string(), pa.large_string())


def one_by_one(values: list[str | None], seed: int = 0) -> np.ndarray:
    rows = [hash_strings(pa.array([value or ""], pa.string()), seed)[0] for value in values]
    return np.array(rows, np.uint64).reshape(len(values), 2)


@given(STRINGS, st.integers(0, (1 << 128) - 1))
@settings(max_examples=100, deadline=None)
def test_a_row_hashes_the_same_alone_and_in_any_column(values: list[str | None], seed: int) -> None:
    expected = one_by_one(values, seed)
    for kind in TYPES:
        column = pa.array(values, kind)
        assert np.array_equal(hash_strings(column, seed), expected)
        assert np.array_equal(hash_strings(column.dictionary_encode(), seed), expected)
        assert np.array_equal(byte_lengths(column), [len((value or "").encode()) for value in values])
        assert np.array_equal(byte_lengths(column.dictionary_encode()), byte_lengths(column))
    for binary in (pa.binary(), pa.large_binary()):
        column = pa.array([None if value is None else value.encode() for value in values], binary)
        assert np.array_equal(hash_strings(column, seed), expected)


@given(STRINGS, st.data())
@settings(max_examples=100, deadline=None)
def test_a_slice_hashes_as_its_rows(values: list[str | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    column = pa.array(values, pa.string())
    for whole in (column, column.dictionary_encode()):
        assert np.array_equal(hash_strings(whole[start:stop]), hash_strings(whole)[start:stop])
        assert np.array_equal(byte_lengths(whole[start:stop]), byte_lengths(whole)[start:stop])


def test_bytes_under_a_null_are_not_read() -> None:
    column = pa.StringArray.from_buffers(
        3,
        pa.py_buffer(np.array([0, 2, 5, 7], np.int32)),
        pa.py_buffer(b"abXYZcd"),
        pa.py_buffer(b"\x05"),  # the middle row is null and has bytes
    )
    assert column.to_pylist() == ["ab", None, "cd"]
    assert np.array_equal(hash_strings(column), one_by_one(["ab", "", "cd"]))
    assert byte_lengths(column).tolist() == [2, 0, 2]


def test_a_dictionary_far_larger_than_the_batch_hashes_only_what_is_used() -> None:
    dictionary = pa.array([f"id-{i}" for i in range(1000)] + [None])
    column = pa.DictionaryArray.from_arrays(pa.array([7, None, 999, 7, 1000]), dictionary)
    assert np.array_equal(hash_strings(column), one_by_one(["id-7", None, "id-999", "id-7", None]))


def test_one_very_long_row_costs_memory_for_itself_only_and_changes_no_hash() -> None:
    values = ["", "x" * 3_000_001, "short", "y" * 600_000, *(f"id-{i}" * (i % 30) for i in range(5000))]
    hashes = hash_strings(pa.array(values))
    assert np.array_equal(hashes[:5], one_by_one(values[:5]))
    assert np.array_equal(hashes[4:], hash_strings(pa.array(values[4:])))


def test_zeros_and_lengths_are_told_apart() -> None:
    values = [b"a" + b"\0" * n for n in range(40)] + [b"\0" * n for n in range(40)]
    values += [b"\0" * n + b"a" + b"\0" * (40 - n) for n in range(40)]
    assert len(np.unique(hash_strings(pa.array(values, pa.binary())), axis=0)) == len(values)


def test_a_million_sequential_ids_and_all_short_strings_collide_in_no_lane() -> None:
    ids = np.char.add("user-", np.arange(1_000_000).astype("U"))
    short = [bytes([a, b]) for a in range(256) for b in range(256)] + [bytes([a]) for a in range(256)] + [b""]
    for hashes in (hash_strings(pa.array(ids)), hash_strings(pa.array(short, pa.binary()))):
        for lane in (hashes[:, 0], hashes[:, 1]):
            assert len(np.unique(lane)) == len(hashes)


@pytest.mark.parametrize("length", [3, 7, 8, 9, 16, 36])
def test_each_bit_of_the_input_flips_each_bit_of_the_hash_half_of_the_time(length: int) -> None:
    rng = np.random.default_rng(length)
    rows = rng.integers(0, 256, (1000, length), dtype=np.uint8)
    before = bits(hash_strings(pa.array([row.tobytes() for row in rows], pa.binary())))
    for bit in range(8 * length):
        flipped = rows.copy()
        flipped[:, bit // 8] ^= np.uint8(1 << (bit % 8))
        after = bits(hash_strings(pa.array([row.tobytes() for row in flipped], pa.binary())))
        share = (before != after).mean(axis=0)
        # 1000 trials: standard deviation 0.016, so 7 of them over some 40,000 pairs of bits.
        assert share.min() > 0.39, f"bit {bit}"
        assert share.max() < 0.61, f"bit {bit}"


def test_low_bits_of_sequential_ids_spread_evenly() -> None:
    hashes = hash_strings(pa.array([f"{i:08d}" for i in range(65_536)]))
    for lane in (0, 1):
        loads = np.bincount((hashes[:, lane] & np.uint64(1023)).astype(np.int64), minlength=1024)
        assert loads.min() > 64 - 6 * 8
        assert loads.max() < 64 + 6 * 8


@given(st.text(max_size=20), st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 128) - 1))
@settings(max_examples=100, deadline=None)
def test_seeds_give_unrelated_hashes(text: str, a: int, b: int) -> None:
    column = pa.array([text])
    assert (a == b) == np.array_equal(hash_strings(column, a), hash_strings(column, b))


def test_combining_depends_on_both_and_on_their_order() -> None:
    keys = hash_strings(pa.array([f"{i}" for i in range(300)]))
    a, b = np.repeat(keys, 300, axis=0), np.tile(keys, (300, 1))
    combined = combine(a, b)
    for lane in (0, 1):
        assert len(np.unique(combined[:, lane])) == 300 * 300
    assert np.array_equal(combine(keys[:1], keys), combine(np.repeat(keys[:1], 300, axis=0), keys))


def test_hashes_are_the_same_in_every_run() -> None:
    program = (
        "import pyarrow as pa; from nextact_server.events.hashing import combine, hash_strings;"
        "h = hash_strings(pa.array(['', 'a', 'user-1', 'naïve ☂ and longer than one word']), 7);"
        "print([f'{int(a):016x}{int(b):016x}' for a, b in [*h, *combine(h[:1], h[1:2])]])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # Stored keys depend on these: a change of the function is a change of the store's schema.
    assert ast.literal_eval(run.stdout) == [
        "13b97f1057524cc46047d5cf54bbecaa",
        "2dfcb7de369024d3117a4d63aea26883",
        "caf12427036190cb5c5a4c7b210d0e68",
        "7988001271ffdef93bb1ecc19e5cc98f",
        "4dde2de5481d80289c352faeb3dde4d2",
    ]


def test_a_column_that_is_not_of_strings_is_refused_by_its_type() -> None:
    with pytest.raises(TypeError, match="int64"):
        hash_strings(pa.array([1, 2]))
    assert hash_strings(pa.nulls(2)).shape == (2, 2)
    assert hash_strings(pa.array([], pa.string())).shape == (0, 2)


def bits(hashes: np.ndarray) -> np.ndarray:
    return np.unpackbits(hashes.view(np.uint8), axis=1)
