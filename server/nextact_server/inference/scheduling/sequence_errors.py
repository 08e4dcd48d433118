"""What a sequence batcher may answer in place of a result, in Triton's words."""

from nextact_server.inference.infer_errors import InferError, cancelled, invalid_argument, unavailable

__all__ = [
    "CorrelationId",
    "backlog_timeout",
    "given_up",
    "must_be_single",
    "must_have_id",
    "must_start",
    "start_given_up",
    "stopping",
    "wrong_id_type",
]

CorrelationId = int | str


def must_be_single(model: str) -> InferError:
    """The request has several rows."""
    return invalid_argument(
        f"inference request to model '{model}' must specify batch-size 1 due to requirements of sequence batcher"
    )


def must_have_id(model: str) -> InferError:
    """The request belongs to no sequence."""
    return invalid_argument(f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID")


def must_start(model: str, correlation_id: CorrelationId) -> InferError:
    """There is no such sequence: never started, ended, or idle for too long."""
    return invalid_argument(
        f"inference request for sequence {correlation_id} to model '{model}' must specify the START flag on the first "
        "request of the sequence"
    )


def wrong_id_type(model: str, correlation_id: CorrelationId, control: str) -> InferError:
    """The model is told the correlation id in a type that cannot hold this one."""
    needed = "an unsigned int" if isinstance(correlation_id, str) else "a string"
    return invalid_argument(
        f"inference request for sequence {correlation_id} to model '{model}': correlation ID in request is not "
        f"{needed}, as the control input '{control}' needs it"
    )


def backlog_timeout() -> InferError:
    """A request's timeout passed before its sequence had a slot."""
    return unavailable("timeout of the corresponding sequence has been expired")


def stopping() -> InferError:
    """The model is being unloaded."""
    return unavailable("Server is stopping, scheduler for model has stopped accepting new inference requests")


def given_up() -> InferError:
    """The caller cancelled it while it waited. Triton's message is empty here."""
    return cancelled("request was cancelled")


def start_given_up(correlation_id: CorrelationId) -> InferError:
    """The caller cancelled the start of the sequence while it waited, and this request came after it."""
    return cancelled(f"the start of sequence {correlation_id} was cancelled, and what came after it with it")
