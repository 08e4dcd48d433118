"""What the rooms raise, as answers to tensor requests."""

import logging

from nextact_server.features.errors import ContentError
from nextact_server.inference.batcher import BatcherClosed, BatchError, QueueFull
from nextact_server.inference.infer_errors import ErrorCode, InferError, invalid_argument, unavailable
from nextact_server.sequence.journal import StoreUnavailable

__all__ = ["refusal"]

logger = logging.getLogger(__name__)


def refusal(error: BaseException) -> InferError:
    """The answer to the caller whose request ended so."""
    if isinstance(error, InferError):
        return error
    if isinstance(error, ContentError):
        return invalid_argument(f"{error.field} {error.reason}")
    if isinstance(error, QueueFull):
        return InferError(ErrorCode.EXHAUSTED, str(error), max(error.retry_after_s, 0.01))
    if isinstance(error, BatcherClosed):
        return unavailable("the server is stopping")
    if isinstance(error, StoreUnavailable | BatchError):
        return unavailable(str(error))
    logger.error("unexpected failure of a tensor request", exc_info=error)
    return unavailable("the server could not complete the request; its log says why")
