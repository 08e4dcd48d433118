"""What counting reaches on the benchmark that is fast to count; NEXTACT_DATA says where the data sets are."""

import os
from pathlib import Path

import numpy as np
import pytest
from made_up import sequences_of

from nextact_server.training.baselines import FollowedScorer, followed, popularity
from nextact_server.training.cooccurrence import cooccurrence, evened
from nextact_server.training.judging import judge
from nextact_server.training.metrics import item_metrics
from nextact_server.training.prepare import Judged
from nextact_server.training.scoring import Scorer
from nextact_server.training.sequences import Sequences

pytestmark = pytest.mark.skipif(
    not os.environ.get("NEXTACT_DATA"), reason="NEXTACT_DATA does not say where the data sets are"
)


@pytest.fixture(scope="module")
def lastfm() -> Judged:
    text = (Path(os.environ["NEXTACT_DATA"]) / "lastfm" / "sequences.txt").read_text()
    lines = [line.split()[1:] for line in text.splitlines()]
    row = {item: number for number, item in enumerate(sorted({item for line in lines for item in line}))}
    everything = sequences_of([[row[item] for item in line] for line in lines])
    return Judged(everything, everything.starts[1:] - 1)


@pytest.fixture(scope="module")
def train(lastfm: Judged) -> Sequences:
    kept = np.ones(len(lastfm.sequences.item), dtype=np.bool_)
    kept[lastfm.first] = False
    return lastfm.sequences.part(kept)


def figures(scorer: Scorer, judged: Judged) -> tuple[float, float]:
    """NDCG@10 and HR@10 with the seen artists removed."""
    found = item_metrics(judge(scorer, judged, exclude_seen=True).rank)
    return float(found["NDCG@10"].mean()), float(found["HR@10"].mean())


def test_the_markov_chain_reaches_what_a_plain_loop_over_the_file_does(lastfm: Judged, train: Sequences) -> None:
    items = 1 + int(lastfm.sequences.item.max())
    share = popularity(train, train.item_target, items)
    chain = FollowedScorer(followed(train, train.item_target, items), share)
    assert figures(chain, lastfm) == pytest.approx((0.036774, 0.062385), abs=1e-6)


def test_cooccurrence_within_five_steps_reaches_its_known_figure(lastfm: Judged, train: Sequences) -> None:
    items = 1 + int(lastfm.sequences.item.max())
    pairs = followed(train, train.item_target, items, reach=5, backward=0.5)
    scorer = FollowedScorer(evened(pairs, 1.0), popularity(train, train.item_target, items), last=5, decay=0.6)
    ndcg, hits = figures(scorer, lastfm)
    assert ndcg > 0.045
    assert hits > 0.078


def test_tuning_on_training_events_makes_cooccurrence_no_worse(lastfm: Judged, train: Sequences) -> None:
    scorer, _ = cooccurrence(train, 1 + int(lastfm.sequences.item.max()), exclude_seen=True)
    ndcg, hits = figures(scorer, lastfm)
    assert ndcg > 0.05
    assert hits > 0.095
