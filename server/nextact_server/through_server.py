"""Whether a version foretells the same through a running server as when it is evaluated offline."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track

from nextact import Client, Event, EventStatus, Output
from nextact_server.sequence.checkpoint import load_model
from nextact_server.sequence.config import FIRST_ACTION
from nextact_server.settings import Settings
from nextact_server.training.agreement import TOP, Offline, Served, check_servable, last_of_each
from nextact_server.training.config import ConfigError, load_config
from nextact_server.training.content import ContentStore
from nextact_server.training.data_config import Folds
from nextact_server.training.datasets import DataError
from nextact_server.training.evaluation_run import DEFAULT_CACHE
from nextact_server.training.history import owners
from nextact_server.training.prepare import Prepared, load_dataset, prepare
from nextact_server.training.sequences import ABSENT, Int64, Sequences

_TOLD: Final = 5
"""How many disagreements are printed."""
_EVENTS: Final = 1000
"""Most events of a Predict."""
_CANDIDATES: Final = 20_000
"""Most candidates of a Rank."""
_SECOND_US: Final = 1_000_000
_START_US: Final = 1_704_067_200 * _SECOND_US
"""From when the events of data without times are told, a second apart; a model of such data does not read them."""
_PATIENCE_S: Final = 60.0
_MODEL: Final = "next_action"
_ENCODERS: Final = ("image_encoder", "text_encoder")


class Disagreement(ValueError):
    """The server foretold otherwise; the message tells of how many users, and what of the first."""


class ServerFailed(RuntimeError):
    """The server did not start, or did not take what it was sent."""


def compare(
    version_dir: Path,
    config_path: Path,
    models: Path,
    *,
    targets: Path | None = None,
    most_users: int | None = None,
    store: ContentStore | None = None,
    console: Console | None = None,
) -> int:
    """Feed each judged user's past to a server of this version, and compare what it foretells with the offline scores.

    Of each user the last judged event is compared, as `Offline.compare` says. `models` is a repository that has the
    encoders; `targets` are as in `run_evaluation`. `most_users`, spread evenly, are asked for; None: all. Converted
    encoders are kept where `serve` keeps them. Prints how many users agree and the first who do not, and returns how
    many were compared.

    Raises Disagreement if any user is told otherwise, ServerFailed, ConfigError, and DataError for versions that cannot
    be compared, such as those of items with attributes.
    """
    console = console or Console()
    config = load_config(config_path, targets)
    if isinstance(config.split, Folds):
        raise ConfigError(f"{config_path}: split.kind is 'folds', a version of each; one version alone is served")
    data = prepare(config, load_dataset(config, config_path.parent), store or ContentStore(DEFAULT_CACHE))
    judged = data.held_out or data.validation
    if judged is None:
        raise DataError(f"{config_path}: the split leaves no event to evaluate on")
    model, card = load_model(version_dir)
    check_servable(config_path, data, card, judged.sequences)
    offline = Offline(model, card, data, judged.sequences)
    if offline.unknown:
        console.print(f"{offline.unknown} items have neither a row nor content; a server offers none of them")
    rows = last_of_each(judged, most_users)
    with serving(version_dir, models) as client:
        _check(client, offline, data, judged.sequences, rows, console=console)
    return len(rows)


def _check(
    client: Client, offline: Offline, data: Prepared, sequences: Sequences, rows: Int64, *, console: Console
) -> None:
    """Compare what is served before each event of `rows` with what is foretold offline; raises Disagreement."""
    differences: list[str] = []
    gap = 0.0
    for row in track(rows.tolist(), "through the server", console=console):
        found = offline.compare(row, _ask(client, data, sequences, row))
        gap = max(gap, found.gap)
        if found.difference is not None:
            user = sequences.users[int(owners(sequences, np.array([row]))[0])]
            differences.append(f"user {user}: {found.difference}")
    console.print(
        f"{len(rows) - len(differences)} of {len(rows)} users agree: top {TOP}, all scores, rank of what came; "
        f"the largest difference of a score is {gap:.1e}"
    )
    for told in differences[:_TOLD]:
        console.print(told, markup=False, highlight=False)
    if differences:
        raise Disagreement(f"{len(differences)} of {len(rows)} users are told otherwise; {differences[0]}")


@contextmanager
def serving(version_dir: Path, models: Path) -> Iterator[Client]:
    """Run a server of its own, on a free port, that serves this version and keeps nothing; see `compare`."""
    with tempfile.TemporaryDirectory(prefix="nextact-") as folder:
        repository, errors = Path(folder) / "models", Path(folder) / "errors.txt"
        link_models(repository, version_dir, models)
        converted = Settings(_cli_parse_args=False).converted_dir  # type: ignore[call-arg]
        converted.mkdir(parents=True, exist_ok=True)
        data = Path(folder) / "data"  # of its own: the users told here must not come among those who are really served
        data.mkdir()
        (data / converted.name).symlink_to(converted.absolute())
        command = [sys.executable, "-c", "from nextact_server.cli import main; main()", "serve", "--host", "127.0.0.1"]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--model-repository", str(repository)]
        command += ["--data-dir", str(data)]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("NEXTACT_")}
        with errors.open("w") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=plain)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "SERVING" not in line:
                ended = process.wait(_PATIENCE_S)
                said = errors.read_text().strip().splitlines()
                raise ServerFailed(f"{version_dir}: its server ended with {ended}: {said[-1] if said else 'no word'}")
            with Client(line.split("grpc=")[1].split()[0]) as client:
                yield client
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)


def link_models(repository: Path, version_dir: Path, models: Path) -> None:
    """Make a repository of links: the encoders of `models`, and as its next-action model this version alone.

    Raises ServerFailed naming what `models` lacks.
    """
    (repository / _MODEL).mkdir(parents=True)
    for part in (*_ENCODERS, f"{_MODEL}/config.pbtxt"):
        if not (models / part).exists():
            raise ServerFailed(f"{models}: has no {part}, which a server needs")
        (repository / part).symlink_to((models / part).absolute())
    (repository / _MODEL / "1").symlink_to(version_dir.absolute())


def _ask(client: Client, data: Prepared, sequences: Sequences, row: int) -> Served:
    """Feed the server all that the row's user did before, and ask what it foretells."""
    user = int(owners(sequences, np.array([row]))[0])
    name = f"user {user}"
    events = _events(data, sequences, int(sequences.starts[user]), row, name)
    top = None
    for begin in range(0, len(events), _EVENTS):
        part = events[begin : begin + _EVENTS]
        answer = client.predict(part, top_k=TOP, outputs=[Output.ITEMS], timeout=_PATIENCE_S)
        for result in answer.results:
            if result.status is not EventStatus.ACCEPTED:
                raise ServerFailed(f"user {sequences.users[user]}: an event is {result.status}: {result.reason}")
        top = dict(answer.predictions[-1].items)
    ids = data.task.catalogue.ids
    ranked: list[tuple[str, float]] = []
    for begin in range(0, len(ids), _CANDIDATES):
        ranked += client.rank(name, candidates=ids[begin : begin + _CANDIDATES], timeout=_PATIENCE_S).items
    ranked.sort(key=lambda one: -one[1])  # stable: one answer keeps its order
    return Served(top, dict(ranked))


def _events(data: Prepared, sequences: Sequences, start: int, stop: int, name: str) -> list[Event]:
    ids, actions, timed = data.task.catalogue.ids, data.task.actions, data.task.uses_time
    events = []
    for at in range(start, stop):
        item, action = int(sequences.item[at]), int(sequences.action[at]) - FIRST_ACTION
        events.append(
            Event(
                user_id=name,
                message_id=str(at),
                action=actions[action] if actions and action >= 0 else "?",
                item_id=ids[item] if item != ABSENT else "",
                event_time=int(sequences.time_us[at]) if timed else _START_US + (at - start) * _SECOND_US,
            )
        )
    return events
