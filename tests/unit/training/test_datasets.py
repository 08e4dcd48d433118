import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextact_server.training.datasets import COLUMNS, DataError, Dataset, in_order, load_events

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)

ROWS = pl.DataFrame(
    {
        "user_id": ["b", "a", "a", "b"],
        "action": ["view", "buy", "view", "view"],
        "item_id": ["1", "2", None, "3"],
        "event_time": [NOON, NOON.replace(hour=13), NOON, NOON],
        "text": [None, None, "red shoes", ""],
        "device": ["x", "x", "y", "y"],
    }
)


def load(*paths: Path, items: Path | None = None) -> Dataset:
    return load_events(paths, items, name="own", licence="own")


def write_csv(path: Path) -> None:
    ROWS.with_columns(pl.col("event_time").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(path)


def write_seconds(path: Path) -> None:
    ROWS.with_columns(pl.col("event_time").dt.epoch("s")).write_csv(path)


def write_jsonl(path: Path) -> None:
    ROWS.with_columns(pl.col("event_time").dt.strftime("%Y-%m-%dT%H:%M:%S+00:00")).write_ndjson(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("e.parquet", ROWS.write_parquet), ("e.csv", write_csv), ("s.csv", write_seconds), ("e.jsonl", write_jsonl)],
)
def test_every_format_gives_the_same_events(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    events = load(tmp_path / name).events
    assert tuple(events.columns) == COLUMNS
    assert events["user_id"].to_list() == ["a", "a", "b", "b"]
    assert events["event_time"].to_list()[:2] == [NOON, NOON.replace(hour=13)]
    assert events["item_id"].to_list()[:2] == [None, "2"]
    assert events["text"].to_list() == ["red shoes", None, None, None]
    assert not events["anonymous"].any()


def test_the_order_of_the_file_decides_nothing() -> None:
    same_moment = pl.DataFrame(
        {
            "user_id": ["u"] * 6,
            "anonymous": [False] * 6,
            "action": ["view", "view", "view", "view", "buy", "view"],
            "item_id": ["1", "2", "3", "4", "4", None],
            "event_time": [NOON] * 6,
            "text": [None] * 6,
        },
        schema_overrides={"text": pl.String},
    )
    wanted = in_order(same_moment)
    assert wanted["item_id"].to_list() != same_moment["item_id"].to_list()
    for seed in range(5):
        assert in_order(same_moment.sample(fraction=1, shuffle=True, seed=seed)).equals(wanted)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.integers(0, 2)), min_size=1), st.randoms())
def test_any_order_of_the_file_gives_the_same_events(rows: list[tuple[str, str, int]], random: Random) -> None:
    def table() -> pl.DataFrame:
        users, items, hours = zip(*rows, strict=True)
        times = [NOON.replace(hour=hour) for hour in hours]
        columns = {"user_id": users, "anonymous": False, "action": "view", "item_id": items, "event_time": times}
        return pl.DataFrame(columns).with_columns(text=pl.lit(None, dtype=pl.String))

    wanted = in_order(table())
    random.shuffle(rows)
    assert in_order(table()).equals(wanted)
    ties = [
        hashlib.sha256(f"{user},{item}".encode()).digest() for user, item in wanted.select("user_id", "item_id").rows()
    ]
    keys = list(zip(wanted["user_id"], wanted["event_time"], ties, strict=True))
    assert keys == sorted(keys)


def test_ties_follow_the_hash_of_user_and_item(tmp_path: Path) -> None:
    # sha256("b,1") begins with 2, sha256("b,3") with 9, so the third item comes last although both are at noon.
    ROWS.write_parquet(tmp_path / "e.parquet")
    assert load(tmp_path / "e.parquet").events["item_id"].to_list()[2:] == _by_hash("b", ["1", "3"])


def _by_hash(user: str, items: list[str]) -> list[str]:
    return sorted(items, key=lambda item: hashlib.sha256(f"{user},{item}".encode()).hexdigest())


def test_a_visitor_is_never_the_user_of_the_same_id(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": ["x", "", None],
            "anonymous_id": ["x", "x", "y"],
            "action": ["view"] * 3,
            "event_time": [NOON] * 3,
        }
    )
    frame.write_parquet(tmp_path / "e.parquet")
    events = load(tmp_path / "e.parquet").events
    assert sorted(zip(events["user_id"], events["anonymous"], strict=True)) == [
        ("x", False),
        ("x", True),
        ("y", True),
    ]


def test_several_files_are_one_set(tmp_path: Path) -> None:
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    ROWS[:2].write_parquet(paths[0])
    ROWS[2:].write_parquet(paths[1])
    ROWS.write_parquet(tmp_path / "all.parquet")
    assert load(*paths).events.equals(load(tmp_path / "all.parquet").events)


def test_the_hash_tells_different_data_apart(tmp_path: Path) -> None:
    for name, rows in (("1.csv", ROWS), ("2.csv", ROWS[:3])):
        rows.with_columns(pl.col("event_time").dt.epoch("s")).write_csv(tmp_path / name)
    assert load(tmp_path / "1.csv").sha256 != load(tmp_path / "2.csv").sha256


def test_columns_that_a_server_records_beside_these_are_ignored(tmp_path: Path) -> None:
    recorded = ROWS.with_columns(
        message_id=pl.Series(["m1", "m2", "m3", "m4"]),
        anonymous_id=pl.Series(["v", None, "", "w"]),
        sent_at=pl.lit(NOON),
        session_id=pl.lit(None, dtype=pl.String),
        properties=pl.struct(pl.lit(1).alias("price"), pl.lit("red").alias("colour")),
        image=pl.lit(b"\xff\xd8"),
    )
    recorded.write_parquet(tmp_path / "recorded.parquet")
    ROWS.write_parquet(tmp_path / "plain.parquet")
    assert load(tmp_path / "recorded.parquet").events.equals(load(tmp_path / "plain.parquet").events)


def test_properties_of_any_shape_do_not_keep_json_lines_from_being_read(tmp_path: Path) -> None:
    line = '{"user_id": "u", "action": "view", "event_time": "2024-05-01T12:00:00Z", "properties": %s}\n'
    (tmp_path / "e.jsonl").write_text(line % '{"a": 1}' + line % '{"a": "x", "b": [1]}' + line % '"x"')
    assert load(tmp_path / "e.jsonl").events.height == 3


def test_unsorted_times_are_sorted(tmp_path: Path) -> None:
    ROWS.reverse().write_parquet(tmp_path / "e.parquet")
    ROWS.write_parquet(tmp_path / "sorted.parquet")
    assert load(tmp_path / "e.parquet").events.equals(load(tmp_path / "sorted.parquet").events)


def test_an_id_of_digits_keeps_its_zeros(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user_id,action,item_id,event_time\n007,1,042,5\n")
    assert load(tmp_path / "e.csv").events.select("user_id", "action", "item_id").row(0) == ("007", "1", "042")


def test_files_without_an_event_are_refused(tmp_path: Path) -> None:
    ROWS.clear().write_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet: there is no event"):
        load(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"data\.files is empty"):
        load()


def test_items_bring_their_text(tmp_path: Path) -> None:
    ROWS.write_parquet(tmp_path / "e.parquet")
    pl.DataFrame({"item_id": [1, 2], "text": ["red", None]}).write_csv(tmp_path / "i.csv")
    assert load(tmp_path / "e.parquet", items=tmp_path / "i.csv").items == {"1": "red", "2": ""}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS.drop("action"), "column 'action' is missing"),
        (ROWS.drop("event_time"), "column 'event_time' is missing"),
        (ROWS.drop("user_id"), "column 'user_id'"),
        (ROWS.with_columns(user_id=pl.Series(["a", "", "b", "c"])), "column 'user_id', row 2"),
        (ROWS.with_columns(action=pl.Series(["a", "b", None, "c"])), "column 'action', row 3"),
        (ROWS.with_columns(item_id=pl.Series([1.5, 2, 3, 4])), "column 'item_id' is Float64"),
        (
            ROWS.with_columns(event_time=pl.Series(["2024-01-01T00:00:00Z", "noon", "", ""])),
            "'event_time', row 2: 'noon'",
        ),
        (ROWS.with_columns(event_time=pl.Series([1.0, 2.0, 3.0, None])), "column 'event_time', row 4"),
        (ROWS.with_columns(event_time=pl.Series([True] * 4)), "column 'event_time' is Boolean"),
    ],
)
def test_a_bad_column_is_named_with_file_and_row(tmp_path: Path, rows: pl.DataFrame, said: str) -> None:
    path = tmp_path / "bad.parquet"
    rows.write_parquet(path)
    with pytest.raises(DataError, match=said) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "e.jsonl", "e.xlsx"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(DataError, match=name):
        load(path)
    path.write_bytes(b"\x00\xff not events \x00" * 9)
    with pytest.raises(DataError, match=name):
        load(path)
