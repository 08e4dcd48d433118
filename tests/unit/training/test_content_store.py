from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nextact_server.training.content import CONTENT_DIM, ContentStore, Encode, Vectors, minilm


class Counting:
    """An encoder that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loads = 0

    def load(self) -> Encode:
        self.loads += 1
        return self.run

    def run(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def test_a_text_is_encoded_once_also_across_runs(tmp_path: Path) -> None:
    encoder = Counting()
    path = tmp_path / "deep" / "texts.npz"
    first = ContentStore(path, encoder.load, 2, "counting").vectors(["aaa", "b", "aaa"])
    assert first[:, 0].tolist() == [3, 1, 3]
    again = ContentStore(path, encoder.load, 2, "counting").vectors(["b", "cc"])
    assert again[:, 0].tolist() == [1, 2]
    assert sorted(encoder.asked) == ["aaa", "b", "cc"]


def test_without_a_new_text_no_encoder_is_loaded(tmp_path: Path) -> None:
    encoder = Counting()
    store = ContentStore(tmp_path / "texts.npz", encoder.load, 2, "counting")
    assert store.vectors([]).shape == (0, 2)
    store.vectors(["a"])
    store.vectors(["a"])
    assert encoder.loads == 1


def test_another_encoders_vectors_are_never_taken(tmp_path: Path) -> None:
    encoder = Counting()
    for name in ("one", "two"):
        ContentStore(tmp_path / "texts.npz", encoder.load, 2, name).vectors(["a"])
    assert encoder.asked == ["a", "a"]


def test_minilm_gives_unit_vectors_that_padding_does_not_change() -> None:
    encode = minilm()
    together = encode(["a heist film. Crime, Thriller", "bank robbery movie", "gardening " * 40])
    assert together.shape == (3, CONTENT_DIM)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    assert together[0] == pytest.approx(encode(["a heist film. Crime, Thriller"])[0], abs=1e-5)
    assert together[0] @ together[1] > together[0] @ together[2] + 0.2
