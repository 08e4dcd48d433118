"""What a caller of a batcher may be told instead of an answer."""

__all__ = ["BatchError", "BatcherClosed", "DeadlineExpired", "QueueFull", "WorkerCrashed", "WrongResultCount"]


class BatchError(Exception):
    """Any refusal or failure that the batcher itself gives, as against one the model raised."""


class QueueFull(BatchError):
    """The waiting cost would pass its limit; nothing of the request was taken.

    `retry_after_s` is a guess at when what waits now will have been computed, in seconds.
    """

    def __init__(self, name: str, limit: int, queued: int, cost: int, retry_after_s: float) -> None:
        super().__init__(
            f"queue of {name} is full: this request costs {cost}, {queued} wait already and the limit is {limit}; "
            f"retry in {retry_after_s:.3f} s or raise the limit of {name}"
        )
        self.name = name
        self.limit = limit
        self.queued = queued
        self.cost = cost
        self.retry_after_s = retry_after_s


class BatcherClosed(BatchError):
    """The batcher takes nothing more, or was closed without draining while this item waited."""

    def __init__(self, name: str) -> None:
        super().__init__(f"batcher {name} is closed")
        self.name = name


class DeadlineExpired(BatchError):
    """The item's deadline passed while it waited; it was not computed."""

    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(f"deadline passed after {waited_s:.3f} s in the queue of {name}; nothing was computed")
        self.name = name
        self.waited_s = waited_s


class WorkerCrashed(BatchError):
    """The worker broke off in this item's batch, with `__cause__`. It goes on with the next batch."""

    def __init__(self, name: str, crash: BaseException) -> None:
        super().__init__(f"worker of {name} crashed: {type(crash).__name__}: {crash}")
        self.name = name


class WrongResultCount(BatchError):
    """The model's run did not return one result per item, so no result can be told to be anyone's."""

    def __init__(self, name: str, wanted: int, got: str) -> None:
        super().__init__(f"run of {name} got {wanted} items and must return {wanted} results, but returned {got}")
        self.name = name
