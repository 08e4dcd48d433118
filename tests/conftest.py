"""What all tests may share: a tiny model repository, the shipped encoders, and real servers over both transports."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.gated_content import Gate, gated_encoder
from support.serving import ROOT, SHIPPED_MODELS, TRANSPORTS, LoopThread, Serving, StartServer, serving, settings_for
from support.tiny_model import write_repository

from nextact_server.features.content import ContentEncoder, ContentLimits, load_content_encoder
from nextact_server.storage.faulty import FaultyStore
from nextact_server.storage.memory import MemoryStore
from nextact_server.storage.seam import Store


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where converted encoders are kept from run to run."""
    return ROOT / "build"


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"), SHIPPED_MODELS)


@pytest.fixture(scope="session")
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def real_content(data_dir: Path) -> Iterator[ContentEncoder]:
    """The shipped encoders, loaded once."""
    encoder = load_content_encoder(
        SHIPPED_MODELS / "image_encoder" / "1",
        SHIPPED_MODELS / "text_encoder" / "1",
        data_dir / "converted",
        threads=2,
        limits=ContentLimits(),
    )
    yield encoder
    encoder.close()


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def server(
    transport: str, loop: LoopThread, tiny_repository: Path, data_dir: Path, real_content: ContentEncoder
) -> Iterator[Serving]:
    """A server that tests share by using users of their own; its encoders are the shipped ones."""
    with serving(loop, settings_for(tiny_repository, data_dir, transport), None, real_content) as running:
        yield running


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Lets a test decide when the contents that its servers are given get their vectors."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def faulty() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def start_server(
    transport: str, loop: LoopThread, tiny_repository: Path, data_dir: Path, gate: Gate
) -> Iterator[StartServer]:
    """Starts servers of one's own, whose contents pass the gate."""
    with ExitStack() as stack:
        # Whatever a failed test left behind the gate must not hold up the end of its servers.
        def begin(store: Store | None = None, content: ContentEncoder | None = None, **settings: Any) -> Serving:
            chosen = settings_for(tiny_repository, data_dir, transport, **settings)
            running = stack.enter_context(serving(loop, chosen, store, content or gated_encoder(gate)))
            stack.callback(gate.open)
            if isinstance(store, FaultyStore):
                stack.callback(store.release)
            return running

        yield begin
