from pathlib import Path

import pytest

from nextact_server.training import movielens
from nextact_server.training.datasets import DataError

RATINGS = """userId,movieId,rating,timestamp
1,10,4.0,1000
1,11,3.5,1000
1,12,3.0,1001
2,10,2.5,900
2,11,5.0,901
"""
TAGS = """userId,movieId,tag,timestamp
1,10,007,1002
2,11,"so, so good",902
"""
MOVIES = """movieId,title,genres
10,GoldenEye (1995),Action|Adventure
11,"American President, The (1995)",Drama
12,Nameless,(no genres listed)
13,Never Rated (2001),Comedy
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in zip(movielens.FILES, (RATINGS, TAGS, MOVIES), strict=True):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_ratings_and_tags_become_actions(folder: Path) -> None:
    events = movielens.load(folder).events
    got = set(events.select("user_id", "item_id", "action", "text").iter_rows())
    assert got == {
        ("1", "10", "like", None),
        ("1", "11", "watch", None),
        ("1", "12", "watch", None),
        ("1", "10", "tag", "007"),
        ("2", "10", "dislike", None),
        ("2", "11", "like", None),
        ("2", "11", "tag", "so, so good"),
    }
    assert events["user_id"].to_list() == ["1"] * 4 + ["2"] * 3
    assert events["event_time"].dt.epoch("s").to_list() == [1000, 1000, 1001, 1002, 900, 901, 902]


def test_every_movie_is_an_item_rated_or_not(folder: Path) -> None:
    items = movielens.load(folder).items
    assert items["10"] == "GoldenEye (1995). Action, Adventure"
    assert items["12"] == "Nameless"
    assert set(items) == {"10", "11", "12", "13"}


def test_a_missing_or_foreign_file_is_named(folder: Path) -> None:
    (folder / "tags.csv").unlink()
    with pytest.raises(DataError, match=r"tags\.csv"):
        movielens.load(folder)
    (folder / "tags.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"tags\.csv"):
        movielens.load(folder)
