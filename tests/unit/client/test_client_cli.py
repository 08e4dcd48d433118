"""The command `nextact`, run in this process against a server of the contract."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
from fake_server import UNAVAILABLE, FakeServer, bad_request

from nextact import cli


class Shell:
    """Runs commands and keeps what they said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *arguments: object, stdin: bytes = b"") -> int:
        self._monkeypatch.setattr("sys.argv", ["nextact", *map(str, arguments)])
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        self.out, self.err = self._capsys.readouterr()
        return int(exit_.value.code or 0)

    def json(self, *arguments: object, stdin: bytes = b"") -> Any:
        assert self.run(*arguments, "--json", stdin=stdin) == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def shell(server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("NEXTACT_SERVER", server.target)
    return Shell(monkeypatch, capsys)


def events(rows: int) -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{n % 3}" for n in range(rows)],
            "action": ["view"] * rows,
            "item_id": [f"{n:03}" for n in range(rows)],
            "event_time": pa.array(range(rows), pa.timestamp("us", tz="UTC")),
        }
    )


def write(table: pa.Table, path: Path) -> None:
    match path.suffix:
        case ".parquet":
            pyarrow.parquet.write_table(table, path)
        case ".csv":
            pyarrow.csv.write_csv(table, path)
        case ".jsonl":
            rows = [row | {"event_time": row["event_time"].isoformat()} for row in table.to_pylist()]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".feather":
            pyarrow.feather.write_feather(table, path)
        case ".arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table, max_chunksize=7)
        case ".arrows":
            with pa.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table, max_chunksize=7)


def test_predict_shows_who_the_user_is_and_what_comes_next(shell: Shell, server: FakeServer, tmp_path: Path) -> None:
    image = tmp_path / "x.jpg"
    image.write_bytes(b"jpg")
    options = ["--image", image, "--text", "nice", "--time", "2024-01-01T00:00:00Z", "--session", "s"]
    assert shell.run("predict", "--user", "ada", "--action", "view", "--item", "1", "--top-k", "5", *options) == 0
    assert "75.0%  view" in shell.out
    assert "next_action/7" in shell.out
    [request] = server.attempts("Predict")
    [event] = request.events
    assert (event.user_id, event.item_id, event.image, event.text, event.session_id) == (
        "ada",
        "1",
        b"jpg",
        "nice",
        "s",
    )
    assert (request.options.top_k, event.event_time.seconds) == (5, 1704067200)


def test_predict_takes_whole_events_and_answers_machines(shell: Shell, server: FakeServer) -> None:
    event = {"user_id": "ada", "action": "view", "event_time": "1970-01-01T00:00:01Z", "properties": {"page": 1}}
    answer = shell.json("predict", "--event", json.dumps(event), "--event", '{"user_id": "bob", "action": "like"}')
    assert [who["user_id"] for who in answer["predictions"]] == ["ada", "bob"]
    assert answer["predictions"][0]["items"][0] == {"item_id": "2", "score": -0.5}
    assert server.attempts("Predict")[0].events[0].event_time.seconds == 1


def test_embed_and_rank_answer(shell: Shell, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"broken")
    answer = shell.json("embed", "a text", "--image", broken)
    assert answer["vectors"] == [[pytest.approx(0.6), pytest.approx(0.8)], [None, None]]
    assert answer["errors"] == {"1": "not an image"}
    assert shell.json("rank", "ada", "--candidate", "8")["items"] == [{"item_id": "8", "score": 0.0}]
    assert shell.run("rank", "ada", "--attribute", "genre=war", "--exclude-seen") == 0
    assert "Items for ada (9 events seen)" in shell.out


def test_items_and_users_are_kept_from_the_shell(shell: Shell, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    catalogue = tmp_path / "items.jsonl"
    catalogue.write_text('{"item_id": "1", "image": "a.jpg"}\n\n{"item_id": "2", "attributes": {"genre": "war"}}\n')
    assert shell.run("item", "upsert", "--file", catalogue) == 0
    assert shell.out == "2 created\n"
    assert server.items["1"].image == b"photo"
    assert shell.run("item", "upsert", "3", "--text", "Heat", "--attribute", "genre=crime") == 0
    assert [item["item_id"] for item in shell.json("item", "list", "--limit", "2")] == ["1", "2"]
    assert shell.json("item", "get", "3")["attributes"] == {"genre": "crime"}
    assert shell.json("item", "delete", "3") == {"existed": True}
    assert shell.json("user", "get", "ada")["history"][0]["event"]["action"] == "view"
    assert shell.json("user", "delete", "--anonymous", "x", "--suppress") == {"existed": False}
    for table in (("item", "get", "1"), ("item", "list"), ("user", "get", "ada"), ("embed", "x")):
        assert shell.run(*table) == 0
        assert shell.out


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".feather", ".arrow", ".arrows"])
def test_every_kind_of_file_arrives_whole(shell: Shell, server: FakeServer, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"events{suffix}"
    write(events(50), path)
    summary = shell.json("stream", path, "--batch-size", "20", "--id-prefix", "p")
    assert (summary["events"], summary["accepted"], summary["refused"]) == (50, 50, 0)
    assert server.seen == {(f"u{n % 3}", f"p-{n}") for n in range(50)}
    assert shell.json("stream", path, "--id-prefix", "p")["duplicates"] == 50


def test_json_lines_come_from_stdin_too(shell: Shell, server: FakeServer) -> None:
    lines = b'{"user_id": "a", "action": "view", "event_time": 1700000000}\n' * 3
    assert shell.json("stream", "-", "--time-unit", "s", stdin=lines)["accepted"] == 3


def test_refused_events_are_counted_shown_by_row_and_end_with_1(shell: Shell, tmp_path: Path) -> None:
    table = events(40).set_column(0, "user_id", pa.array(["bad" if n % 10 == 5 else "ada" for n in range(40)]))
    write(table, tmp_path / "e.parquet")
    assert shell.run("stream", tmp_path / "e.parquet", "--batch-size", "20") == 1
    assert "36 accepted" in shell.out
    assert "4 refused" in shell.out
    assert "this user is bad" in shell.out
    assert shell.run("stream", tmp_path / "e.parquet", "--json") == 1
    assert [failure["row"] for failure in json.loads(shell.out)["failures"]] == [5, 15, 25, 35]


def test_a_stream_that_fails_says_how_far_it_came(shell: Shell, server: FakeServer, tmp_path: Path) -> None:
    write(events(30), tmp_path / "e.parquet")
    server.drops.append((1, bad_request("arrow_ipc", "no more")))
    assert shell.run("stream", tmp_path / "e.parquet", "--batch-size", "10") == 1
    assert "10 events in 1 messages" in shell.out
    assert shell.err == "nextact: INVALID_ARGUMENT: bad request; arrow_ipc: no more\n"


def test_a_stream_says_that_it_waits_for_the_server(shell: Shell, server: FakeServer, tmp_path: Path) -> None:
    write(events(3), tmp_path / "e.parquet")
    server.drops.append((0, UNAVAILABLE))
    assert shell.run("stream", tmp_path / "e.parquet") == 0
    assert shell.err == "not connected; trying again in 0.1 s\n"
    assert shell.run("stream", tmp_path / "e.parquet", "--server", "127.0.0.1:1", "--attempts", "0") == 1
    assert "3 events" not in shell.out
    assert shell.err.startswith("nextact: UNAVAILABLE: failed to connect")


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("user_id,action,event_time,colour\na,v,1,red\n", [], "column 'colour' is not one of"),
        ("user_id,action,event_time\na,v,2024-01-01T00:00:00\n", [], "--assume-utc"),
        ("user_id,action,event_time\na,v,noon\n", [], "noon"),
        ("user_id,action,event_time\na,v\n", [], "Expected 3 columns"),
    ],
)
def test_a_file_that_cannot_be_sent_is_one_line(
    shell: Shell, tmp_path: Path, content: str, options: list[str], said: str
) -> None:
    path = tmp_path / "e.csv"
    path.write_text(content)
    assert shell.run("stream", path, *options) == 1
    assert said in shell.err
    assert shell.err.startswith("nextact: ")
    assert shell.err.count("\n") == 1


def test_columns_can_be_left_out_and_times_read_as_utc(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user_id,action,event_time,colour\n007,v,2024-01-01T00:00:00,red\n")
    assert shell.json("stream", path, "--drop", "colour", "--assume-utc")["accepted"] == 1


def test_ids_stay_as_they_are_written(shell: Shell, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("user_id,action,event_time\n007,v,1\n")
    shell.json("stream", tmp_path / "e.csv", "--id-prefix", "p")
    write(pa.table({"user_id": [7], "action": ["v"], "event_time": [1]}), tmp_path / "e.parquet")
    shell.json("stream", tmp_path / "e.parquet", "--id-prefix", "p")
    assert server.seen == {("007", "p-0"), ("7", "p-0")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["predict", "--event", "{"],
        ["predict", "--event", '{"user": "ada"}'],
        ["predict", "--user", "ada", "--action", "view", "--time", "2024-01-01T00:00:00"],
        ["rank"],
        ["rank", "ada", "--attribute", "genre"],
        ["embed"],
        ["item", "upsert"],
        ["user", "get"],
        ["user", "get", "ada", "--anonymous", "x"],
        ["stream", "x.csv", "--format", "xlsx"],
        ["stream", "x.csv", "--batch-size", "0"],
        ["stream", "x.csv", "--time-unit", "h"],
        ["dance"],
    ],
)
def test_wrong_usage_ends_with_2_and_no_traceback(shell: Shell, server: FakeServer, arguments: list[str]) -> None:
    assert shell.run(*arguments) == 2
    assert "Traceback" not in shell.err
    assert shell.out == ""
    assert server.requests == []


def test_an_error_of_the_server_is_one_line_and_ends_with_1(shell: Shell, server: FakeServer, tmp_path: Path) -> None:
    assert shell.run("item", "get", "7") == 1
    assert shell.err == "nextact: NOT_FOUND: no item '7'\n"
    server.refusals.extend([UNAVAILABLE] * 4)
    assert shell.run("user", "get", "ada") == 1
    assert shell.err == "nextact: UNAVAILABLE: draining\n"
    assert shell.run("stream", tmp_path / "none.csv") == 1
    assert "No such file" in shell.err
    (tmp_path / "items.jsonl").write_text('{"item_id": "1"}\n{"id": "2"}\n')
    assert shell.run("item", "upsert", "--file", tmp_path / "items.jsonl") == 1
    assert "line 2: an item has no field 'id'" in shell.err
    assert server.items == {}
