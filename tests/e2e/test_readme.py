"""What README.md says works, as it stands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from nextact_server.sequence.card import load_card
from nextact_server.training.config import TrainingConfig
from nextact_server.training.evaluate import ACTION_METRIC, LAST_ACTION, MARKOV, POPULARITY
from nextact_server.training.prepare import load_dataset

DEFAULT = "127.0.0.1:8001"


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(readme: str, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)


def block(readme: str, language: str) -> str:
    """The one fenced block in a language."""
    [found] = blocks(readme, language)
    return found


def output_of(code: str, server: str) -> list[str]:
    """What a Python example prints when it asks this server."""
    assert DEFAULT in code
    run = subprocess.run(
        [sys.executable, "-c", code.replace(DEFAULT, server)], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_python_example_runs(readme: str, shipped_server: tuple[str, str]) -> None:
    first, second = output_of(blocks(readme, "python")[0], shipped_server[0])
    assert first.startswith("2 events, next: ")
    assert len(second.split(",")) == 3


def test_the_example_of_tritons_client_runs(readme: str, shipped_server: tuple[str, str]) -> None:
    [line] = output_of(blocks(readme, "python")[1], shipped_server[0])
    assert line.startswith("[[1]] [b'")


def test_the_shell_examples_run(readme: str, shipped_server: tuple[str, str], root: Path) -> None:
    environment = {
        **os.environ,
        "NEXTACT_SERVER": shipped_server[0],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block(readme, "bash")],
        cwd=root,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert run.returncode == 0, run.stderr
    assert "2 created" in run.stdout
    assert "6 accepted" in run.stdout
    assert "grace: 3 events" in run.stdout
    assert run.stdout.rstrip().endswith("erased")


def test_the_grpcurl_example_works_without_our_stubs(readme: str, shipped_server: tuple[str, str]) -> None:
    words = shlex.split(block(readme, "sh"))
    payload, (target, path) = words[words.index("-d") + 1], words[-2:]
    assert target == DEFAULT
    service, _, name = path.partition("/")
    with grpc.insecure_channel(shipped_server[0]) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))  # type: ignore[no-untyped-call]
        method = pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.Parse(payload, GetMessageClass(method.input_type)())
        call = channel.unary_unary(
            f"/{path}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        answer = json_format.MessageToDict(call(request, timeout=10))

    assert answer["results"][0]["status"] == "EVENT_STATUS_ACCEPTED"
    assert len(answer["predictions"][0]["items"]) == 3
    assert answer["durability"] == "DURABILITY_MEMORY"


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
def test_the_grpcurl_example_runs(readme: str, shipped_server: tuple[str, str]) -> None:
    words = shlex.split(block(readme, "sh").replace(DEFAULT, shipped_server[0]))

    run = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)

    assert run.returncode == 0, run.stderr
    assert '"status"' in run.stdout


def test_the_training_example_is_a_whole_configuration(readme: str, root: Path) -> None:
    config = TrainingConfig.model_validate(tomllib.loads(block(readme, "toml")))

    dataset = load_dataset(config, root / "examples")

    assert dataset.events.height == 6
    assert set(dataset.items) == {"robot-film", "mango"}


def test_the_figures_are_those_of_the_shipped_model(readme: str, root: Path) -> None:
    evaluation = load_card(root / "model_repository" / "next_action" / "1").evaluation
    assert evaluation is not None
    columns = [evaluation.metrics, *(evaluation.baselines[name] for name in (POPULARITY, MARKOV, LAST_ACTION))]
    for metric in ("HR@10", "NDCG@10", ACTION_METRIC):
        [row] = re.findall(rf"^\| {metric} \|(.*)\|$", readme, re.MULTILINE)
        for cell, column in zip(row.split("|"), columns, strict=True):
            estimate = column.get(metric)
            shown = "" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
            assert cell.strip() == shown
    assert f"({evaluation.events:,} events;" in readme


def test_the_table_of_settings_is_in_step(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "docs/settings_table.py", "--check"],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 0, run.stderr


def test_the_metrics_it_names_exist(readme: str, shipped_server: tuple[str, str]) -> None:
    named = set(re.findall(r"`(nextact_[a-z_]+)`", readme)) - {"nextact_server"}
    with urllib.request.urlopen(f"http://{shipped_server[1]}/metrics", timeout=10) as answer:
        offered = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))

    assert named
    assert named <= offered


def test_what_it_links_to_is_there_and_so_are_the_targets(readme: str, root: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link]
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", readme, re.MULTILINE))

    assert [link for link in links if not (root / link).exists()] == []
    assert {"demo", "test"} <= named <= targets
