"""What the repository may say of the server's own models, and requests that take long to read."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from nextact_server.features.content import CONTENT_DIM, Content
from nextact_server.inference.infer_errors import ErrorCode, InferError
from nextact_server.inference.infer_request import InferRequest, InferResponse
from nextact_server.inference.infer_spec import ModelSpec
from nextact_server.inference.statistics import ModelStatistics
from nextact_server.own_models.encoder_backends import image_encoder_backend, text_encoder_backend
from nextact_server.own_models.encoders import MOST_SLOW
from nextact_server.own_models.next_action_backend import NextActionBackend, ServedNextAction
from nextact_server.repository.backend import ModelContext

NOWHERE = Path("/nowhere/1")


class Encoders:
    """Remembers what it was asked, and on which thread; `gate` holds it up."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)

    def encode_many(self, contents: Sequence[Content]) -> list[Future[Any]]:
        self.threads.append(threading.current_thread().name)
        self.asked.release()
        assert self.gate.wait(20)
        futures: list[Future[Any]] = [Future() for _ in contents]
        for future in futures:
            future.set_result(np.zeros(CONTENT_DIM, np.float32))
        return futures


class Sink:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.response: Any = None

    def respond(self, request: InferRequest, response: Any, final: bool) -> None:
        self.response = response
        self.done.set()

    def only(self) -> Any:
        assert self.done.wait(20)
        return self.response


def next_action(horizon_s: float | None = None) -> NextActionBackend:
    model = ServedNextAction("next_action", "3", ("view", "buy"), embedding_dim=8, horizon_s=horizon_s)
    unused: Any = None
    return NextActionBackend(model, unused, unused, max_rows=10)


def config(name: str, **fields: Any) -> Any:
    return model_config_pb2.ModelConfig(name=name, **fields)


def context(name: str, version: int, statistics: ModelStatistics | None = None) -> ModelContext:
    unused: Any = None
    spec = ModelSpec(name, version, "", (), ())
    return ModelContext(NOWHERE.parent, NOWHERE, config(name), spec, statistics or ModelStatistics(), unused)


def test_next_action_is_completed_as_a_sequence_model() -> None:
    completed = next_action().complete(config("next_action", max_batch_size=4), NOWHERE)
    assert completed.sequence_batching.oldest.max_candidate_sequences == 4
    assert [tensor.name for tensor in completed.input if not tensor.optional] == ["action"]
    widths = {tensor.name: list(tensor.dims) for tensor in completed.output}
    assert (widths["embedding"], widths["action_scores"], widths["item_ids"]) == ([8], [2], [-1])


def test_when_the_next_event_comes_is_among_the_outputs_only_of_a_model_that_foretells_it() -> None:
    names = {"expected_gap_s", "leave_probability"}
    without = next_action().complete(config("next_action", max_batch_size=4), NOWHERE)
    assert not names & {tensor.name for tensor in without.output}
    assert "horizon_s" not in without.parameters
    completed = next_action(2_592_000.0).complete(config("next_action", max_batch_size=4), NOWHERE)
    assert {tensor.name: list(tensor.dims) for tensor in completed.output if tensor.name in names} == {
        name: [1] for name in names
    }
    assert completed.parameters["horizon_s"].string_value == "2592000"


def test_a_response_cache_is_refused_for_next_action() -> None:
    cached = config("next_action")
    cached.response_cache.enable = True
    with pytest.raises(InferError, match=r"response_cache\.enable must be false"):
        next_action().complete(cached, NOWHERE)


def test_no_other_version_takes_over_from_the_one_that_holds_states() -> None:
    next_action().load(context("next_action", 3))
    with pytest.raises(InferError, match="version 3 holds the users' states"):
        next_action().load(context("next_action", 4))


@pytest.mark.parametrize("backend", [next_action(), text_encoder_backend(Encoders(), "text_encoder")])
def test_a_second_model_of_the_kind_is_refused_by_name(backend: Any) -> None:
    with pytest.raises(InferError, match="'another' cannot be loaded"):
        backend.complete(config("another", backend="nextact"), NOWHERE)


def images(encoders: Encoders, statistics: ModelStatistics, max_bytes: int = 1000) -> Any:
    backend = image_encoder_backend(encoders, "image_encoder", max_bytes)
    return backend.load(context("image_encoder", 1, statistics)).scheduler()


def ask(scheduler: Any, statistics: ModelStatistics, **inputs: np.ndarray) -> Sink:
    sink = Sink()
    statistics.entered(1)
    scheduler.submit([InferRequest(dict(inputs), sink)])
    return sink


PIXELS = np.zeros((1, 4, 4, 3), np.uint8)
ENCODED = np.array([[b"any"]], np.object_)


def test_pixels_are_read_on_a_thread_of_their_own_and_encoded_images_at_once() -> None:
    encoders, statistics = Encoders(), ModelStatistics()
    scheduler = images(encoders, statistics)
    encoders.gate.clear()
    slow = ask(scheduler, statistics, pixels=PIXELS)  # returns though the encoders hold it up
    assert encoders.asked.acquire(timeout=20)
    encoders.gate.set()
    assert isinstance(slow.only(), InferResponse)
    ask(scheduler, statistics, image=ENCODED).only()
    scheduler.close()
    assert encoders.threads[0].startswith("encoder-requests")
    assert encoders.threads[1] == threading.current_thread().name
    assert statistics.snapshot().pending == 0


def test_too_many_pixels_at_once_are_refused_and_all_that_wait_answered_at_the_end() -> None:
    encoders, statistics = Encoders(), ModelStatistics()
    scheduler = images(encoders, statistics)
    encoders.gate.clear()
    waiting = [ask(scheduler, statistics, pixels=PIXELS) for _ in range(MOST_SLOW)]
    assert ask(scheduler, statistics, pixels=PIXELS).only().code is ErrorCode.EXHAUSTED
    encoders.gate.set()
    scheduler.close()
    assert all(isinstance(sink.only(), InferResponse) for sink in waiting)
    assert ask(scheduler, statistics, pixels=PIXELS).only().code is ErrorCode.UNAVAILABLE
    assert statistics.snapshot().pending == 0


def test_pixels_over_the_limit_are_refused_before_anything_is_made_of_them() -> None:
    encoders, statistics = Encoders(), ModelStatistics()
    scheduler = images(encoders, statistics, max_bytes=47)
    error = ask(scheduler, statistics, pixels=PIXELS).only()
    scheduler.close()
    assert error.code is ErrorCode.INVALID_ARG
    assert "48 bytes a row, over the limit of 47; max_image_bytes" in error.message
    assert encoders.threads == []
