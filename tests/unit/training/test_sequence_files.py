import json
from pathlib import Path

import pytest

from nextact_server.training.datasets import COLUMNS, DataError, Dataset
from nextact_server.training.sequence_files import load_sequences

LINES = "u2 10 11 10\nu1 12\n"
TITLES = "10::GoldenEye (1995)::Action|Adventure\n11::American President, The (1995)::Drama\n99::Déjà Vu (1997)::\n"


def load(folder: Path, lines: str = LINES, **files: str) -> Dataset:
    """Write the lines, and each of `files` under its own name, and read all of them."""
    (folder / "sequences.txt").write_text(lines)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="latin-1" if name == "titles" else "utf-8")
    given = {name: folder / name for name in files}
    return load_sequences(folder / "sequences.txt", **given, name="own", licence="own")


def test_a_line_is_a_user_and_the_items_in_order(tmp_path: Path) -> None:
    data = load(tmp_path)
    assert tuple(data.events.columns) == COLUMNS
    assert data.events.select("user_id", "item_id").rows() == [("u1", "12"), ("u2", "10"), ("u2", "11"), ("u2", "10")]
    assert data.events["event_time"].null_count() == data.events["action"].null_count() == 4
    assert not data.uses_time
    assert not data.uses_actions
    assert data.items == {}
    assert data.attributes is None


def test_windows_line_ends_and_tabs_change_nothing(tmp_path: Path) -> None:
    plain = load(tmp_path).events
    assert load(tmp_path, LINES.replace("\n", "\r\n").replace(" ", "\t")).events.equals(plain)
    assert load(tmp_path, LINES.rstrip("\n")).events.equals(plain)


def test_a_title_with_genres_is_an_items_text(tmp_path: Path) -> None:
    assert load(tmp_path, titles=TITLES).items == {
        "10": "GoldenEye (1995). Action, Adventure",
        "11": "American President, The (1995). Drama",
        "99": "Déjà Vu (1997)",
    }


def test_attributes_are_counted(tmp_path: Path) -> None:
    data = load(tmp_path, attributes='{"10": [4, 7, 4], "12": [], "77": ["x"]}')
    assert data.attributes is not None
    assert data.attributes.rows() == [("10", "4", 2), ("10", "7", 1), ("77", "x", 1)]
    assert data.items == {"10": "", "12": "", "77": ""}


def test_items_that_nobody_met_can_be_left_out(tmp_path: Path) -> None:
    load(tmp_path)
    (tmp_path / "titles").write_text(TITLES, encoding="latin-1")
    (tmp_path / "attributes").write_text('{"77": [1], "12": [2]}')
    known = load_sequences(
        tmp_path / "sequences.txt",
        titles=tmp_path / "titles",
        attributes=tmp_path / "attributes",
        unseen_items=False,
        name="own",
        licence="own",
    )
    assert set(known.items) == {"10", "11", "12"}


def test_what_came_after_is_apart_from_the_events(tmp_path: Path) -> None:
    data = load(tmp_path, attributes='{"77": [1]}', targets="u2 77\nu1 11\n")
    assert data.targets is not None
    assert data.targets.select("user_id", "item_id").rows() == [("u1", "11"), ("u2", "77")]
    assert data.events.height == 4


def test_the_fingerprint_is_of_all_files_that_training_reads(tmp_path: Path) -> None:
    prints = [
        load(tmp_path).sha256,
        load(tmp_path, LINES + "u3 1\n").sha256,
        load(tmp_path, titles=TITLES).sha256,
        load(tmp_path, titles=TITLES, attributes="{}").sha256,
    ]
    assert len(set(prints)) == 4
    assert load(tmp_path, targets="u1 10\n").sha256 == prints[0], "a target is never trained on"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "is empty"),
        ("u1 1\nu2\n", "line 2: 'u2' has no items"),
        ("u1 1\n\nu2 2\n", "line 2: '' has no items"),
        ("u1 1\nu2 2\nu1 3\n", "line 3: user 'u1' has a line above"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load(tmp_path, lines)
    assert str(tmp_path / "sequences.txt") in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("titles", "10::GoldenEye\n", "line 1: '10::GoldenEye' is not"),
        ("titles", "10::a::b\n::b::c\n", "line 2"),
        ("titles", "10::a::b\n10::c::d\n", "line 2: item '10'"),
        ("attributes", "{", "not JSON"),
        ("attributes", "[1]", "is not a JSON object"),
        ("attributes", json.dumps({"10": 4}), "item '10' has 4"),
        ("attributes", json.dumps({"10": [None]}), r"item '10' has \[None\]"),
        ("targets", "u1 10 11\n", "line 1: 'u1 10 11' is not"),
        ("targets", "u1 10\nu9 10\n", "line 2: user 'u9' has no sequence"),
        ("targets", "u1 10\nu1 11\n", "line 2: user 'u1' has a line above"),
        ("targets", "u1 10\nu2 55\n", "line 2: item '55' occurs in no sequence"),
    ],
)
def test_a_bad_line_of_a_file_beside_is_named(tmp_path: Path, kind: str, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load(tmp_path, **{kind: text})
    assert str(tmp_path / kind) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read"):
        load_sequences(tmp_path / "nowhere.txt", name="own", licence="own")
    (tmp_path / "binary.txt").write_bytes(b"u1 \xff\xfe\n")
    with pytest.raises(DataError, match=r"binary\.txt: not utf-8"):
        load_sequences(tmp_path / "binary.txt", name="own", licence="own")
