"""What can be wrong with a content or with an encoder's files."""

from pathlib import Path

__all__ = ["ContentError", "EncoderError"]


class ContentError(ValueError):
    """A text or an image that cannot be encoded, whoever asks: the caller's fault, and never cached.

    `field` is the field of the content (`text`, `image`); `reason` is fit to be shown to the caller.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class EncoderError(RuntimeError):
    """An encoder cannot be loaded; the message names the file and what to do about it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
