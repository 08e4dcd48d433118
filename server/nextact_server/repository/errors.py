"""What can be wrong with a model repository."""

from pathlib import Path

__all__ = ["ModelNotFoundError", "RepositoryError"]


class RepositoryError(ValueError):
    """A repository that cannot be read; the message names the file and, where known, the line and the field."""

    def __init__(self, path: Path, reason: str, *, line: int | None = None, field: str | None = None) -> None:
        where = f"{path}:{line}" if line else str(path)
        what = f"{field}: {reason}" if field else reason
        super().__init__(f"{where}: {what}")
        self.path = path
        self.reason = reason
        self.line = line
        self.field = field


class ModelNotFoundError(LookupError):
    """A model, or a version of one, that the repository does not have."""
