"""A scheduler that asks the response cache first."""

import time
from collections.abc import Sequence

from nextact_server.inference.infer_errors import InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse, ResponseSink
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.instance import Scheduler
from nextact_server.inference.response_cache import ResponseCache, cache_key
from nextact_server.inference.statistics import ModelStatistics

__all__ = ["CachingScheduler"]


class CachingScheduler:
    """Answers from the cache what it holds, and keeps what the model answers to the rest.

    Only a single, final, successful response of a request that nobody cancelled is kept. The same content asked for
    twice at once is computed twice, as Triton does. Models with sequences or several responses are never behind one of
    these: their configuration is refused.
    """

    def __init__(self, inner: Scheduler, cache: ResponseCache, spec: ModelSpec, statistics: ModelStatistics) -> None:
        self._inner = inner
        self._cache = cache
        self._spec = spec
        self._statistics = statistics

    def submit(self, requests: Sequence[InferRequest]) -> None:
        """See `Scheduler`."""
        missed = [request for request in requests if not self._answered(request)]
        if missed:
            self._inner.submit(missed)

    def close(self, *, drain: bool = True) -> None:
        """See `Scheduler`."""
        self._inner.close(drain=drain)

    def _answered(self, request: InferRequest) -> bool:
        began = time.monotonic_ns()
        key = cache_key(self._spec, request)
        found = self._cache.get(key)
        taken_ns = time.monotonic_ns() - began
        if found is None:
            request.sink = _Keeper(request.sink, self._cache, key, taken_ns, self._statistics)
            return False
        self._statistics.cache_hit(taken_ns, began - request.arrived_ns)
        self._statistics.left(1)
        request.respond(found)
        return True


class _Keeper:
    """Stands before a request's sink and keeps its response."""

    __slots__ = ("_cache", "_key", "_lookup_ns", "_responses", "_sink", "_statistics")

    def __init__(
        self, sink: ResponseSink, cache: ResponseCache, key: bytes, lookup_ns: int, statistics: ModelStatistics
    ) -> None:
        self._sink = sink
        self._cache = cache
        self._key = key
        self._lookup_ns = lookup_ns
        self._statistics = statistics
        self._responses = 0

    def respond(self, request: InferRequest, response: InferResponse | InferError | None, final: bool) -> None:
        self._responses += 1
        if final and self._responses == 1 and isinstance(response, InferResponse) and not request.is_cancelled:
            began = time.monotonic_ns()
            self._cache.put(self._key, response)
            self._statistics.cache_missed(self._lookup_ns + time.monotonic_ns() - began)
        self._sink.respond(request, response, final)
