from pathlib import Path

import pytest

from nextact_server.training.config import ConfigError, TrainingConfig, load_config
from nextact_server.training.data_config import EventData, Folds, JData, LeaveOneOut, SequenceData, UserSplit

ACCURACY = Path(__file__).parents[3] / "examples" / "accuracy"

SEQUENCES = '[data]\nkind = "sequences"\nfile = "${NEXTACT_DATA}/s.txt"\n'


def loaded(folder: Path, text: str) -> TrainingConfig:
    path = folder / "train.toml"
    path.write_text(text)
    return load_config(path)


def test_an_environment_variable_stands_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTACT_DATA", "/somewhere")
    data = loaded(tmp_path, SEQUENCES + 'titles = "titles.dat"\n').data
    assert isinstance(data, SequenceData)
    assert data.file == Path("/somewhere/s.txt")
    assert data.titles == Path("titles.dat")


def test_a_variable_names_a_folder_from_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXTACT_DATA", "data")
    data = loaded(tmp_path, '[data]\nkind = "events"\nfiles = ["${NEXTACT_DATA}/e.csv"]\n').data
    assert isinstance(data, EventData)
    assert data.files == (tmp_path / "data" / "e.csv",)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("NEXTACT_DATA", raising=False)
    else:
        monkeypatch.setenv("NEXTACT_DATA", value)
    with pytest.raises(ConfigError, match="environment variable NEXTACT_DATA, which is not set") as caught:
        loaded(tmp_path, SEQUENCES)
    assert "train.toml" in str(caught.value)


def test_a_split_without_a_kind_is_by_users(tmp_path: Path) -> None:
    events = '[data]\nkind = "events"\nfiles = ["e.csv"]\n'
    assert loaded(tmp_path, events).split == UserSplit()
    assert loaded(tmp_path, events + "[split]\nmodulus = 7\n").split == UserSplit(modulus=7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[data]\nkind = "sequences"\n', "data.sequences.file"),
        ('[data]\nkind = "jdata"\n', "data.jdata.folder"),
        ('[data]\nkind = "jdata"\nfolder = "."\nfile = "x"\n', "data.jdata.file"),
        ('[data]\nkind = "jdata"\nfolder = "."\n[split]\nkind = "thirds"\n', "split"),
        ('[data]\nkind = "jdata"\nfolder = "."\n[split]\nkind = "folds"\nfolds = 1\n', "split.folds.folds"),
        ('[data]\nkind = "sequences"\nfile = "s"\ntargets = "t"\n', "leave-one-out"),
    ],
)
def test_a_bad_section_is_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, text)


def test_the_shipped_configurations_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTACT_DATA", "/data")
    configs = {path.parent.name: load_config(path) for path in ACCURACY.glob("*/train.toml")}
    assert set(configs) >= {"ml-1m", "amazon-beauty", "lastfm", "jdata"}
    for name in ("ml-1m", "amazon-beauty", "lastfm"):
        assert isinstance(configs[name].split, LeaveOneOut)
        assert configs[name].exclude_seen
    assert isinstance(configs["jdata"].split, Folds)
    assert isinstance(configs["jdata"].data, JData)
    assert not configs["jdata"].exclude_seen, "people come back to a product"
