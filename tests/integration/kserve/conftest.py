"""A server with the users' models and the repository of tensor models, and unmodified clients of it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from support.kserve_calls import infer_request, loaded, stub_of
from support.serving import PATIENCE, LoopThread, Serving, serving, settings_for

from nextact_server.features.content import ContentEncoder

TENSOR_MODELS = Path(__file__).resolve().parents[2] / "triton" / "repository"


@pytest.fixture(scope="session")
def tensor_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that tests may add to."""
    copy = tmp_path_factory.mktemp("tensors") / "models"
    shutil.copytree(TENSOR_MODELS, copy)
    return copy


@pytest.fixture(scope="session")
def kserve(
    transport: str,
    loop: LoopThread,
    tiny_repository: Path,
    tensor_repository: Path,
    data_dir: Path,
    real_content: ContentEncoder,
) -> Iterator[Serving]:
    """A server that tests share; its models are loaded and unloaded by request."""
    settings = settings_for(
        tiny_repository,
        data_dir,
        transport,
        tensor_repository=tensor_repository,
        model_control_mode="explicit",
        load_model=["*"],
    )
    with serving(loop, settings, None, real_content) as running:
        yield running


@pytest.fixture
def client(kserve: Serving) -> Iterator[grpcclient.InferenceServerClient]:
    """The synchronous client."""
    with grpcclient.InferenceServerClient(kserve.target) as client:
        yield client


@pytest.fixture
def start_kserve(
    transport: str,
    loop: LoopThread,
    tiny_repository: Path,
    tensor_repository: Path,
    data_dir: Path,
    real_content: ContentEncoder,
) -> Iterator[Callable[..., Serving]]:
    """(**settings) -> a server of one's own for the length of the test, with only the models that hold users."""
    with ExitStack() as stack:

        def begin(**settings: Any) -> Serving:
            fields = {"model_control_mode": "explicit", "tensor_repository": tensor_repository, **settings}
            chosen = settings_for(tiny_repository, data_dir, transport, **fields)
            return stack.enter_context(serving(loop, chosen, None, real_content))

        yield begin


@pytest.fixture(scope="session")
def wild(kserve: Serving) -> Iterator[Any]:
    """Calls of a server that has models whose dimensions may be anything."""
    with (
        loaded(kserve, "wild_numbers", dims=(-1, -1)),
        loaded(kserve, "wild_words", dims=(-1, -1), datatype="TYPE_STRING"),
        loaded(kserve, "wild_rows", dims=(-1,), max_batch_size=4),
    ):
        yield stub_of(kserve.channel)


@pytest.fixture
def next_request_works(kserve: Serving) -> Iterator[None]:
    """Whatever a test does, the next good request is answered."""
    yield
    sent = np.arange(64, dtype=np.float32).reshape(1, 64)
    answer = stub_of(kserve.channel).ModelInfer(infer_request(array=sent), timeout=PATIENCE)
    assert answer.raw_output_contents[0] == sent.tobytes()
