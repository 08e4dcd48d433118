"""A server with the users' models and the repository of tensor models, and unmodified clients of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from support.serving import LoopThread, Serving, serving, settings_for

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
