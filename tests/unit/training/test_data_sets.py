"""The data sets of the accuracy tables, which may not be redistributed: NEXTACT_DATA says where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_world import content_store

from nextact_server.training.config import load_config
from nextact_server.training.prepare import Prepared, load_dataset, prepare

pytestmark = pytest.mark.skipif(
    not os.environ.get("NEXTACT_DATA"), reason="NEXTACT_DATA does not say where the data sets are"
)

ACCURACY = Path(__file__).parents[3] / "examples" / "accuracy"


def prepared(name: str, folder: Path, fold: int = 0) -> Prepared:
    path = ACCURACY / name / "train.toml"
    config = load_config(path)
    return prepare(config, load_dataset(config, path.parent), content_store(folder), fold=fold)


@pytest.mark.parametrize(
    ("name", "users", "items", "events"),
    [
        ("ml-1m", 6_040, 3_416, 993_571),
        ("amazon-beauty", 22_363, 12_101, 176_139),
        ("lastfm", 1_090, 3_646, 51_461),
    ],
)
def test_a_benchmark_of_sequences_is_whole(tmp_path: Path, name: str, users: int, items: int, events: int) -> None:
    data = prepared(name, tmp_path)
    assert len(data.task.catalogue.ids) == items
    assert data.task.catalogue.has_content.all()
    assert len(data.train.users) == users
    assert len(data.train.item) == events - users
    assert data.validation is not None
    assert len(data.validation.sequences.item) == events
    assert (data.validation.sequences.starts[1:] - data.validation.first == 1).all()
    seen = data.train.user * items + data.train.item
    assert len(np.unique(seen)) == len(seen), "no item comes twice, so removing those seen is right"


def test_jdata_is_whole_and_every_event_but_the_first_is_judged_in_one_fold(tmp_path: Path) -> None:
    judged = 0
    for fold in range(5):
        data = prepared("jdata", tmp_path, fold)
        assert data.task.actions == ("view", "order", "follow", "comment")
        assert data.held_out is not None
        judged += int((data.held_out.sequences.starts[1:] - data.held_out.first).sum())
        assert len(data.train.item) + len(data.held_out.sequences.item) == 27_183
        assert data.task.catalogue.has_content.all()
        assert data.train.gap_us.min() == -1
    assert judged == 27_183 - 3_520
