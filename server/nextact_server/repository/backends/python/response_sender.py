"""`request.get_response_sender()`: answers given from any thread, at any time, as often as the model likes."""

import threading
from collections.abc import Callable
from typing import Final

from nextact_server.inference.infer_request import InferRequest
from nextact_server.repository.backends.python.errors import TritonModelException, incompatible
from nextact_server.repository.backends.python.responses import InferenceResponse, OutputNames, answer

__all__ = ["COMPLETE_FINAL", "ResponseSender"]

COMPLETE_FINAL: Final = 1
_SIGNATURE = (
    "(self: c_python_backend_utils.InferenceResponseSender, response: c_python_backend_utils.InferenceResponse = None, "
    "flags: int = 0) -> None"
)


class ResponseSender:
    """Answers one request. `closed` is called once, after the last response was given.

    The one response of a model that is not decoupled is its caller's final one at once, whether or not the flag comes
    with it.
    """

    __slots__ = ("_closed", "_is_closed", "_is_decoupled", "_lock", "_names", "_request", "_sent")

    def __init__(
        self, request: InferRequest, names: OutputNames, is_decoupled: bool, closed: Callable[[InferRequest], object]
    ) -> None:
        self._request = request
        self._names = names
        self._is_decoupled = is_decoupled
        self._closed = closed
        self._lock = threading.Lock()
        self._is_closed = False
        self._sent = False

    @property
    def has_sent(self) -> bool:
        """Whether a response was given."""
        return self._sent

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Give a response; with TRITONSERVER_RESPONSE_COMPLETE_FINAL, or without a response and that flag, the last.

        Raises:
            TritonModelException: there is nothing to send, or nothing more may be sent.
        """
        if not (response is None or isinstance(response, InferenceResponse)) or not isinstance(flags, int):
            raise incompatible(_SIGNATURE, self, response, function="send")
        if flags not in (0, COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and not flags:
            raise TritonModelException(
                "Inference Response object must be provided when the response flags is set to zero."
            )
        is_final = flags == COMPLETE_FINAL
        with self._lock:
            self._check(response)
            self._sent = self._sent or response is not None
            self._is_closed = is_final
        result = None if response is None else answer(response, self._request, self._names)
        if self._is_decoupled:
            self._request.respond(result, final=is_final)
        elif result is not None:
            self._request.respond(result)
        if is_final or not self._is_decoupled:
            self._closed(self._request)

    def is_cancelled(self) -> bool:
        """Whether the caller went away."""
        return self._request.is_cancelled

    def close(self) -> None:
        """The request was answered in another way: nothing more may be sent."""
        with self._lock:
            self._is_closed = True

    def _check(self, response: InferenceResponse | None) -> None:
        if not self._is_decoupled:
            if response is not None and self._sent:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send more than one response."
                )
            if response is None and not self._sent:
                raise TritonModelException(
                    "Unable to send response. Non-decoupled model cannot send complete final before sending a response."
                )
        if self._is_closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
