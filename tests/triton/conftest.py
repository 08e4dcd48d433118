"""The same repository served by the real Triton and by nextact. Skipped, saying why, where there is no Triton."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from support.serving import ROOT
from support.tiny_model import write_repository

from bench.peers.triton import serve_triton, why_no_triton
from bench.processes import nextact_server

REPOSITORY = Path(__file__).parent / "repository"


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpcclient.InferenceServerClient]:
    if reason := why_no_triton():
        pytest.skip(reason)
    log = tmp_path_factory.mktemp("triton") / "log.txt"
    with serve_triton(REPOSITORY, log) as address, grpcclient.InferenceServerClient(address) as client:
        yield client


@pytest.fixture(scope="session")
def nextact(
    triton: grpcclient.InferenceServerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpcclient.InferenceServerClient]:
    users = write_repository(tmp_path_factory.mktemp("nextact") / "models", ROOT / "model_repository")
    with (
        nextact_server(users, {"tensor-repository": str(REPOSITORY)}) as served,
        grpcclient.InferenceServerClient(served.grpc) as client,
    ):
        yield client
