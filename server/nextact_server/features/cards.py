"""An encoder's card: `card.json` in its version directory says which network, which weights, which projection."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nextact_server.features.errors import EncoderError

__all__ = ["CARD_FILE", "ImageCard", "TextCard", "load_image_card", "load_text_card"]

CARD_FILE = "card.json"
Card = TypeVar("Card", bound=BaseModel)
_CONFIG = ConfigDict(extra="forbid", frozen=True)


class ImageCard(BaseModel):
    """Card of an image encoder."""

    model_config = _CONFIG

    encoder: Literal["efficientnet-lite0", "resnet18"]
    weights_path: Path | None = Field(
        None, description="Weight file, relative to the card; none: the one that the encoder's package brings or gets."
    )
    projection: str = Field("projection.safetensors", description="File of the projection, relative to the card.")
    date: str = ""
    seed: int | None = None
    licences: dict[str, str] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict, description="What the projection was fitted on, and how.")
    evaluation: dict[str, Any] = Field(default_factory=dict, description="Measured figures beside chance.")


class TextCard(BaseModel):
    """Card of a text encoder."""

    model_config = _CONFIG

    encoder: Literal["all-MiniLM-L6-v2"]
    model_path: Path | None = Field(
        None, description="Directory with model.safetensors, config.json, tokenizer.json; none: the package's."
    )
    max_tokens: int = Field(256, ge=3, le=512, description="Word pieces kept of a text, with the two that frame it.")
    date: str = ""
    licences: dict[str, str] = Field(default_factory=dict)
    notes: str = ""


def load_image_card(version_dir: Path) -> ImageCard:
    """Read an image encoder's card. Raises EncoderError naming file and field."""
    return _read(version_dir, ImageCard)


def load_text_card(version_dir: Path) -> TextCard:
    """Read a text encoder's card. Raises EncoderError naming file and field."""
    return _read(version_dir, TextCard)


def _read(version_dir: Path, kind: type[Card]) -> Card:
    path = version_dir / CARD_FILE
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise EncoderError(path, f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise EncoderError(path, f"{field}: {first['msg']} ({error.error_count()} problems in all)") from error
