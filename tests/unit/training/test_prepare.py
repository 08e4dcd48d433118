from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import content_store

from nextact_server.sequence.config import FIRST_ACTION, UNKNOWN_ACTION
from nextact_server.training.config import load_config
from nextact_server.training.datasets import DataError
from nextact_server.training.prepare import Judged, Prepared, load_dataset, prepare
from nextact_server.training.sequences import ABSENT, Sequences

START = datetime(2024, 3, 1, tzinfo=UTC)
EVENTS = 'exclude_seen = false\n[data]\nkind = "events"\nfiles = ["events.parquet"]\n'
BY_USER = "[split]\nmodulus = 4\nexcluded = [0]\nvalidation = [1]\n"
ONE_OUT = '[split]\nkind = "leave-one-out"\n'
LINES = '[data]\nkind = "sequences"\nfile = "s.txt"\n'


def prepared(folder: Path, config: str, events: pl.DataFrame | None = None, fold: int = 0) -> Prepared:
    if events is not None:
        events.write_parquet(folder / "events.parquet")
    (folder / "train.toml").write_text(config)
    read = load_config(folder / "train.toml")
    return prepare(read, load_dataset(read, folder), content_store(folder), fold=fold)


def events(seconds: dict[str, list[int]]) -> pl.DataFrame:
    """Return users' events at these seconds; the item of each is named by its second."""
    return pl.DataFrame(
        [
            {
                "user_id": user,
                "action": "buy" if second % 3 == 0 else "view",
                "item_id": f"i{second}",
                "event_time": START + timedelta(seconds=second),
                "text": f"{user} at {second}" if second % 5 == 0 else None,
            }
            for user, moments in seconds.items()
            for second in moments
        ],
        schema_overrides={"text": pl.String},
    )


def same(a: Sequences, b: Sequences) -> bool:
    names = ("starts", "item", "action", "time", "text", "texts", "item_target", "time_us", "gap_us")
    return a.users == b.users and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_gaps_are_to_the_users_own_last_event(tmp_path: Path) -> None:
    data = prepared(tmp_path, EVENTS + ONE_OUT, events({"a": [9, 1, 4], "b": [2, 2]}))
    assert data.validation is not None
    got = data.validation.sequences
    start = int(START.timestamp()) * 10**6
    assert ((got.time_us - start) // 10**6).tolist() == [1, 4, 9, 2, 2], "unsorted times are sorted"
    assert got.gap_us.tolist() == [-1, 3_000_000, 5_000_000, -1, 0]
    assert data.task.uses_time
    assert data.task.uses_actions


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.integers(0, 20), min_size=1, max_size=6), min_size=2))
def test_a_part_is_what_encoding_its_events_alone_would_give(
    tmp_path_factory: pytest.TempPathFactory, seconds: dict[str, list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("part")
    table = events(seconds)
    try:
        data = prepared(folder, EVENTS + BY_USER, table)
    except DataError:
        return
    trained = table.filter(~pl.col("user_id").is_in(list(data.excluded_users)))
    alone = prepared(folder, EVENTS + "[split]\nexcluded = []\nvalidation = []\n", trained)
    assert same(data.train, replace(alone.train, item=data.train.item))
    assert items(data) == items(alone)


def items(data: Prepared) -> list[str]:
    return [data.task.catalogue.ids[row] for row in data.train.item]


def test_one_out_and_what_came_after(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u1 a b c\nu2 b\nu3 c a\n")
    (tmp_path / "t.txt").write_text("u1 d\nu2 a\n")
    (tmp_path / "a.json").write_text('{"d": [1, 2], "a": [1]}')
    data = prepared(tmp_path, LINES + 'attributes = "a.json"\ntargets = "t.txt"\n' + ONE_OUT)
    ids = np.array(data.task.catalogue.ids)
    assert ids.tolist() == ["a", "b", "c", "d"]
    assert data.task.catalogue.has_content.tolist() == [True, False, False, True]
    assert said(data.train, ids) == {"u1": "ab", "u2": "b", "u3": "c"}
    assert data.first_fit is data.train
    assert judged(data.validation, ids) == {"u1": ("ab", "c"), "u2": ("b", ""), "u3": ("c", "a")}
    assert judged(data.held_out, ids) == {"u1": ("abc", "d"), "u2": ("b", "a"), "u3": ("ca", "")}
    assert data.excluded_users == ()


def said(sequences: Sequences, ids: np.ndarray) -> dict[str, str]:
    runs = zip(sequences.users, sequences.starts[:-1], sequences.starts[1:], strict=True)
    return {user: "".join(ids[sequences.item[low:high]]) for user, low, high in runs}


def judged(part: Judged | None, ids: np.ndarray) -> dict[str, tuple[str, str]]:
    """Return each user's history and what is foretold."""
    assert part is not None
    cuts = part.first - part.sequences.starts[:-1]
    runs = said(part.sequences, ids)
    return {user: (run[:cut], run[cut:]) for (user, run), cut in zip(runs.items(), cuts, strict=True)}


def test_sequences_have_neither_times_nor_actions(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u1 a b c\nu2 b a\n")
    data = prepared(tmp_path, LINES + ONE_OUT)
    assert not data.task.uses_time
    assert not data.task.uses_actions
    assert data.task.actions == ()
    assert (data.train.action == UNKNOWN_ACTION).all()
    assert (data.train.time_us == 0).all()
    assert (data.train.gap_us == -1).all()
    assert data.train.item_target.all()


def test_invented_times_and_actions_are_ignored_on_request(tmp_path: Path) -> None:
    config = EVENTS + "uses_time = false\nuses_actions = false\n" + ONE_OUT
    a = prepared(tmp_path, config, events({"u": [1, 2, 3], "v": [1, 5]}))
    assert not a.task.uses_time
    assert a.task.actions == ()
    assert (a.train.gap_us == -1).all()
    later = events({"u": [1, 2, 3], "v": [1, 5]}).with_columns(pl.col("event_time").dt.offset_by("90d"))
    assert same(a.train, prepared(tmp_path, config, later).train)


@pytest.mark.parametrize("split", [BY_USER, ONE_OUT, '[split]\nkind = "folds"\nfolds = 3\n'])
def test_the_same_files_give_the_same_parts(tmp_path: Path, split: str) -> None:
    table = events({f"u{number}": [number, number + 7, 50 - number] for number in range(20)})
    first = prepared(tmp_path, EVENTS + split, table)
    again = prepared(tmp_path, EVENTS + split, table.sample(fraction=1, shuffle=True, seed=1))
    assert first.excluded_users == again.excluded_users
    assert same(first.train, again.train)
    assert same(first.first_fit, again.first_fit)
    for a, b in ((first.validation, again.validation), (first.held_out, again.held_out)):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert same(a.sequences, b.sequences)
            assert np.array_equal(a.first, b.first)


def test_folds_have_different_users(tmp_path: Path) -> None:
    table = events({f"u{number}": [1, 2, 3] for number in range(12)})
    config = EVENTS + '[split]\nkind = "folds"\nfolds = 3\n'
    folds = [prepared(tmp_path, config, table, fold=fold) for fold in range(3)]
    assert len({user for data in folds for user in data.excluded_users}) == 12
    for data in folds:
        assert data.held_out is not None
        assert data.held_out.sequences.users == data.excluded_users
        assert (data.held_out.first - data.held_out.sequences.starts[:-1] == 1).all()
    with pytest.raises(DataError, match="fold 3 was asked for"):
        prepared(tmp_path, config, table, fold=3)


def test_what_only_excluded_users_did_is_no_known_action(tmp_path: Path) -> None:
    table = events({f"u{number}": [1, 2] for number in range(16)})
    data = prepared(tmp_path, EVENTS + BY_USER, table)
    odd = table.with_columns(
        action=pl.when(pl.col("user_id").is_in(list(data.excluded_users))).then(pl.lit("odd")).otherwise("action")
    )
    again = prepared(tmp_path, EVENTS + BY_USER, odd)
    assert again.task.actions == ("view",)
    assert again.held_out is not None
    assert (again.held_out.sequences.action == UNKNOWN_ACTION).all()
    assert not again.held_out.sequences.item_target.any()


def test_one_event_in_all_is_trained_on_or_refused(tmp_path: Path) -> None:
    everyone = "[split]\nexcluded = []\nvalidation = []\n"
    data = prepared(tmp_path, EVENTS + everyone, events({"u": [3]}))
    assert data.train.starts.tolist() == [0, 1]
    assert data.train.action.tolist() == [FIRST_ACTION]
    assert data.validation is data.held_out is None
    with pytest.raises(DataError, match="no user has two events"):
        prepared(tmp_path, EVENTS + ONE_OUT, events({"u": [3]}))


def test_a_user_with_100_000_events_is_like_any_other(tmp_path: Path) -> None:
    count = 100_000
    table = pl.DataFrame(
        {
            "user_id": ["a"] * count + ["b"] * 2,
            "action": ["view"] * (count + 2),
            "item_id": [f"i{number % 997}" for number in range(count + 2)],
            "event_time": [START + timedelta(seconds=number // 2) for number in range(count + 2)],
        }
    )
    data = prepared(tmp_path, EVENTS + ONE_OUT, table)
    assert data.train.lengths.tolist() == [count - 1, 1]
    assert (data.train.gap_us[1 : count - 1] >= 0).all()


def test_items_without_any_feature_and_events_without_item(tmp_path: Path) -> None:
    table = events({"a": [1, 2], "b": [2, 4]}).with_columns(item_id=pl.Series(["x", None, "", "x"]))
    table.write_parquet(tmp_path / "events.parquet")
    data = prepared(tmp_path, EVENTS + ONE_OUT)
    assert data.task.catalogue.ids == ("x",)
    assert not data.task.catalogue.has_content.any()
    assert not data.task.catalogue.content.any()
    assert data.validation is not None
    assert data.validation.sequences.item.tolist() == [0, ABSENT, ABSENT, 0]
    assert data.validation.sequences.item_target.tolist() == [True, False, False, True]


def test_text_and_attributes_meet_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u1 a b\nu2 b c\n")
    (tmp_path / "t.dat").write_text("a::Alien (1979)::Horror\nb::Brazil (1985)::\n", encoding="latin-1")
    (tmp_path / "a.json").write_text('{"a": [1], "c": [1]}')
    files = {"titles": 'titles = "t.dat"\n', "attributes": 'attributes = "a.json"\n'}
    titles, attributes, both = (
        prepared(tmp_path, LINES + given + ONE_OUT).task.catalogue
        for given in (files["titles"], files["attributes"], "".join(files.values()))
    )
    assert titles.has_content.tolist() == [True, True, False]
    assert attributes.has_content.tolist() == [True, False, True]
    assert both.has_content.all()
    assert both.content[1] == pytest.approx(titles.content[1], abs=1e-6)
    assert both.content[2] == pytest.approx(attributes.content[2], abs=1e-6)
    assert both.content[0] @ titles.content[0] == pytest.approx(both.content[0] @ attributes.content[0], abs=1e-5)
    assert np.linalg.norm(both.content, axis=1) == pytest.approx(1, abs=1e-5)


def test_cold_items_leave_the_training_events_and_their_gaps(tmp_path: Path) -> None:
    table = events({"u": [1, 2, 4, 7], "v": [2, 4]})
    data = prepared(tmp_path, EVENTS + '[split]\nkind = "cold-items"\npart = 0.25\nseed = 1\n', table)
    assert data.cold is not None
    ids = np.array(data.task.catalogue.ids)
    (cold,) = ids[data.cold].tolist()
    seconds = {user: [at for at in moments if f"i{at}" != cold] for user, moments in {"u": [1, 2, 4, 7]}.items()}
    apart = prepared(tmp_path, EVENTS + ONE_OUT, events(seconds | {"w": [1, 2]}))
    at = data.train.users.index("u")
    low, high = data.train.starts[at : at + 2]
    assert ids[data.train.item[low:high]].tolist() == [f"i{second}" for second in seconds["u"]]
    assert apart.validation is not None
    end = int(apart.validation.sequences.starts[1])
    assert data.train.gap_us[low:high].tolist() == apart.validation.sequences.gap_us[:end].tolist()
    assert data.held_out is not None
    assert data.held_out.sequences.lengths.tolist() == [4, 2], "the history is whole"
    assert set(ids[data.held_out.sequences.item[data.held_out.rows]].tolist()) == {cold}
