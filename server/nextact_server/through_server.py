"""Whether a version foretells the same through a running server as when it is evaluated offline."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from rich.console import Console
from rich.progress import track

from nextact.v1 import behavior_pb2 as pb
from nextact.v1.behavior_pb2_grpc import BehaviorServiceStub
from nextact_server.sequence.checkpoint import load_model
from nextact_server.sequence.config import FIRST_ACTION, FIRST_ITEM
from nextact_server.training.config import load_config
from nextact_server.training.content import ContentStore
from nextact_server.training.datasets import DataError
from nextact_server.training.history import owners, seen_before
from nextact_server.training.prepare import Judged, Prepared, load_dataset, prepare
from nextact_server.training.run import DEFAULT_CACHE, with_targets
from nextact_server.training.scoring import ModelScorer, Scores, vocabulary_rows
from nextact_server.training.sequences import ABSENT, Int64, Sequences

TOP: Final = 20
SCORE_TOLERANCE: Final = 1e-4
TIE: Final = 1e-5
"""Scores that differ by no more may change places."""

_EVENTS: Final = 1000
"""Most events of a Predict."""
_CANDIDATES: Final = 20_000
"""Most candidates of a Rank."""
_SECOND_US: Final = 1_000_000
_START_US: Final = 1_704_067_200 * _SECOND_US
"""From when the events of data without times are told, a second apart; a model of such data does not read them."""
_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_PATIENCE_S: Final = 60.0


class Disagreement(ValueError):
    """The server foretold otherwise; the message tells for how many users, and the first of them."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What the server said of a user: the top items with their scores, and the score of every item, best first."""

    top: dict[str, float]
    ranked: dict[str, float]


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

    Of each user the last judged event is compared: the served top 20 must be the offline ones in the same order, and
    Rank over all items must give every score to 1e-4 and the judged item the same rank; items whose scores differ by
    1e-5 or less may change places. `models` is a repository that has the encoders; `targets` are as in
    `run_evaluation`. `most_users`, spread evenly, are asked for; None: all. Returns how many users were compared.

    Raises Disagreement, ConfigError, and DataError for data whose items or events have content, since the server
    encodes it by another runtime than training does.
    """
    console = console or Console()
    config = load_config(config_path) if targets is None else with_targets(config_path, targets)
    data = prepare(config, load_dataset(config, config_path.parent), store or ContentStore(DEFAULT_CACHE))
    judged = data.held_out or data.validation
    if judged is None:
        raise DataError(f"{config_path}: the split leaves no event to evaluate on")
    if data.task.catalogue.has_content.any() or len(judged.sequences.texts):
        raise DataError(
            f"{config_path}: items or events have content, which the server encodes by another runtime than training "
            "does; only versions that read ids alone can be compared to 1e-4"
        )
    if len(data.task.catalogue.ids) > _CANDIDATES:
        raise DataError(f"{config_path}: {len(data.task.catalogue.ids)} items; a Rank takes {_CANDIDATES} at most")
    model, card = load_model(version_dir)
    vocab = vocabulary_rows(data.task.catalogue, {item: FIRST_ITEM + at for at, item in enumerate(card.items)})
    rows = _last_of_each(judged, most_users)
    scorer = ModelScorer(model, data.task.catalogue, vocab)
    disagreeing: list[str] = []
    with _server(version_dir, models) as stub:
        for row in track(rows.tolist(), "through the server", console=console):
            scores = _offline(scorer, data, judged.sequences, row, vocab)
            served = _ask(stub, data, judged.sequences, row)
            if (told := _differs(data.task.catalogue.ids, scores, int(judged.sequences.item[row]), served)) is not None:
                disagreeing.append(
                    f"{judged.sequences.users[int(owners(judged.sequences, np.array([row]))[0])]}: {told}"
                )
    if disagreeing:
        raise Disagreement(f"{len(disagreeing)} of {len(rows)} users are told otherwise; user {disagreeing[0]}")
    console.print(
        f"{len(rows)} users: the served top {TOP}, all scores and the judged item's rank are the offline ones"
    )
    return len(rows)


def _last_of_each(judged: Judged, most: int | None) -> Int64:
    rows = judged.rows[judged.sequences.item_target[judged.rows]]
    user = owners(judged.sequences, rows)
    last = rows[np.append(user[1:] != user[:-1], True)] if len(rows) else rows
    if most is None or len(last) <= most:
        return last
    return last[np.linspace(0, len(last) - 1, most).astype(np.int64)]


def _offline(scorer: ModelScorer, data: Prepared, sequences: Sequences, row: int, vocab: Int64) -> Scores:
    """Return every item's score, float[C], -inf where the server does not offer it."""
    rows = np.array([row], dtype=np.int64)
    removed = (vocab < FIRST_ITEM)[None, :]  # without a row or content an item is not rankable
    if data.task.exclude_seen:
        removed = removed | seen_before(sequences, rows, scorer.items)
    scores = scorer(sequences, rows, removed).scores
    assert scores is not None
    first: Scores = scores[0]
    return first


def _ask(stub: BehaviorServiceStub, data: Prepared, sequences: Sequences, row: int) -> _Served:
    user = int(owners(sequences, np.array([row]))[0])
    name = sequences.users[user]
    ids, actions = data.task.catalogue.ids, data.task.actions
    events = []
    for at in range(int(sequences.starts[user]), row):
        item, action = int(sequences.item[at]), int(sequences.action[at]) - FIRST_ACTION
        event = pb.Event(user_id=name, message_id=str(at), action=actions[action] if actions and action >= 0 else "?")
        if item != ABSENT:
            event.item_id = ids[item]
        event.event_time.FromMicroseconds(
            int(sequences.time_us[at]) if data.task.uses_time else _START_US + at * _SECOND_US
        )
        events.append(event)
    options = pb.PredictOptions(top_k=TOP)
    top: dict[str, float] = {}
    for begin in range(0, len(events), _EVENTS):
        answer = stub.Predict(pb.PredictRequest(events=events[begin : begin + _EVENTS], options=options))
        top = {one.item_id: one.score for one in answer.predictions[-1].items}
    ranked = stub.Rank(pb.RankRequest(user_id=name, candidates=ids))
    return _Served(top, {one.item_id: one.score for one in ranked.items})


def _differs(ids: tuple[str, ...], scores: Scores, target: int, served: _Served) -> str | None:
    """Return what is different, or None."""
    place = {item: at for at, item in enumerate(ids)}
    offered = np.isfinite(scores)
    answered = np.array([place[item] for item in served.ranked], dtype=np.int64)
    if set(answered.tolist()) != set(np.flatnonzero(offered).tolist()):
        return f"Rank has {len(answered)} items, offline there are {int(offered.sum())}, or others"
    if not len(answered):
        return None  # the user has seen everything
    told = np.array(list(served.ranked.values()))
    worst = int(np.argmax(np.abs(told - scores[answered])))
    if abs(told[worst] - scores[answered[worst]]) > SCORE_TOLERANCE:
        return f"item {ids[answered[worst]]} has score {told[worst]:.6f}, offline {scores[answered[worst]]:.6f}"
    best = np.sort(scores[offered])[::-1][:TOP]
    top = np.array([scores[place[item]] for item in served.top])
    if served.top and (len(top) != len(best) or (np.abs(top - best) > TIE).any()):
        return f"the top {TOP} are {', '.join(served.top)}, which offline score {top.round(5).tolist()}"
    if offered[target]:
        rank = int(np.flatnonzero(answered == target)[0])
        better, not_worse = int((scores > scores[target] + TIE).sum()), int((scores >= scores[target] - TIE).sum())
        if not better <= rank < not_worse:
            return f"item {ids[target]} has rank {rank}, offline {better} to {not_worse - 1}"
    return None


@contextmanager
def _server(version_dir: Path, models: Path) -> Iterator[BehaviorServiceStub]:
    """Run a server of its own, on a free port, that serves this version and keeps nothing."""
    with tempfile.TemporaryDirectory(prefix="nextact-") as folder:
        repository = Path(folder) / "models"
        served = repository / "next_action"
        served.mkdir(parents=True)
        for entry in models.iterdir():
            if entry.name != served.name:
                (repository / entry.name).symlink_to(entry.absolute())
        (served / "config.pbtxt").symlink_to((models / served.name / "config.pbtxt").absolute())
        (served / "1").symlink_to(version_dir.absolute())
        command = [sys.executable, "-c", "from nextact_server.cli import main; main()", "serve"]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--model-repository", str(repository)]
        command += ["--data-dir", str(Path(folder) / "data")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "SERVING" not in line:
                raise RuntimeError(f"the server of {version_dir} ended with {process.wait(_PATIENCE_S)}")
            address = line.split("grpc=")[1].split()[0]
            sizes = [(f"grpc.max_{way}_message_length", _MESSAGE_BYTES) for way in ("send", "receive")]
            with grpc.insecure_channel(address, options=sizes) as channel:
                yield BehaviorServiceStub(channel)  # type: ignore[no-untyped-call]
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)
