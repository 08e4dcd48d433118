"""A version directory: weights as `model.safetensors` (never pickle) and the card beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors

from nextact_server.sequence.card import ModelCard, load_card, save_card
from nextact_server.sequence.model import SequenceModel

WEIGHTS_FILE = "model.safetensors"


class CheckpointError(ValueError):
    """Weights that are missing, broken or do not fit their card; the message names the file and the tensor."""


def load_model(version_dir: Path) -> tuple[SequenceModel, ModelCard]:
    """Load a version for inference, on the CPU and in evaluation mode.

    Raises ModelCardError for a bad card.json and CheckpointError for bad weights: truncated, of the wrong shape or
    type, not finite, missing, left over, or not those that the card was written for.
    """
    card = load_card(version_dir)
    path = version_dir / WEIGHTS_FILE
    try:
        data = path.read_bytes()
        tensors = parse_tensors(data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file of {len(data)} bytes: {error}") from error
    with torch.random.fork_rng(
        devices=[]
    ):  # fresh weights are drawn and replaced; the caller's generator stays as it was
        model = SequenceModel(card.config)
    _check_tensors(path, tensors, model.state_dict())
    digest = hashlib.sha256(data).hexdigest()
    if card.weights_sha256 and card.weights_sha256 != digest:
        raise CheckpointError(f"{path}: sha256 is {digest}, but the card was written for {card.weights_sha256}")
    model.load_state_dict(tensors)
    if model.prior is not None:
        try:
            model.prior.check()
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    model.eval().requires_grad_(False)
    if card.state_bytes_per_user != state_bytes(model):
        raise CheckpointError(
            f"{path}: a user's state takes {state_bytes(model)} bytes, but the card says {card.state_bytes_per_user}"
        )
    return model, card


def save_model(model: SequenceModel, card: ModelCard, version_dir: Path) -> ModelCard:
    """Write a version directory and return the card as written, with the hash of the weights."""
    version_dir.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = serialize_tensors(tensors, metadata={"format": "pt", "model": card.name, "version": card.version})
    (version_dir / WEIGHTS_FILE).write_bytes(data)
    written = card.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    save_card(written, version_dir)
    return written


def state_bytes(model: SequenceModel) -> int:
    """Return what one user's state takes in memory, in bytes."""
    return sum(4 * torch.Size(shape).numel() for shape in model.state_spec().values())


def _check_tensors(path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(set(wanted) | set(found)):
        if name not in found:
            raise CheckpointError(f"{path}: tensor {name!r} is missing")
        if name not in wanted:
            raise CheckpointError(f"{path}: tensor {name!r} is not part of the model the card describes")
        have, want = found[name], wanted[name]
        if have.shape != want.shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {list(have.shape)}, the card asks for {list(want.shape)}"
            )
        if have.dtype != want.dtype:
            raise CheckpointError(f"{path}: tensor {name!r} is {have.dtype}, it must be {want.dtype}")
        if not bool(torch.isfinite(have).all()):
            raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite")
