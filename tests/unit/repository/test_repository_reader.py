from pathlib import Path

import pytest

from nextact_server.repository.config import instance_kind, max_queue_delay_s, parameter
from nextact_server.repository.errors import ModelNotFoundError, RepositoryError
from nextact_server.repository.reader import ModelRepository

CONFIG = 'name: "net"\nbackend: "some"\nmax_batch_size: 8\n'
EVERY_VERSION = CONFIG + "version_policy { all { } }"
SHIPPED = Path(__file__).resolve().parents[3] / "model_repository"


def model(root: Path, config: str = CONFIG, versions: tuple[str, ...] = ("1",), name: str = "net") -> Path:
    for version in versions:
        (root / name / version).mkdir(parents=True)
    (root / name).mkdir(exist_ok=True)
    (root / name / "config.pbtxt").write_text(config)
    return root / name / "config.pbtxt"


def test_the_latest_version_is_the_highest_number(tmp_path: Path) -> None:
    model(tmp_path, EVERY_VERSION, versions=("2", "10", "9"))
    entry = ModelRepository(tmp_path).get("net")
    assert entry.versions == (2, 9, 10)
    assert entry.version_dir() == tmp_path / "net" / "10"
    assert entry.version_dir("9") == entry.version_dir(9) == tmp_path / "net" / "9"


def test_what_is_no_version_is_passed_over(tmp_path: Path) -> None:
    model(tmp_path, versions=("3", "0", "01", "draft", "٣", str(2**63), "9" * 20))
    (tmp_path / "net" / "7").write_text("a file")
    assert ModelRepository(tmp_path).get("net").versions == (3,)


@pytest.mark.parametrize(
    ("policy", "offered"),
    [
        ("version_policy { latest { num_versions: 2 } }", (2, 3)),
        ("version_policy { specific { versions: [ 1, 3 ] } }", (1, 3)),
        ("version_policy { all { } }", (1, 2, 3)),
        ("version_policy { specific { versions: [ 3, 7 ] } }", (3,)),
        ("", (3,)),
    ],
)
def test_the_version_policy_says_what_is_offered(tmp_path: Path, policy: str, offered: tuple[int, ...]) -> None:
    model(tmp_path, CONFIG + policy, versions=("1", "2", "3"))
    assert ModelRepository(tmp_path).get("net").versions == offered


def test_a_policy_that_names_a_missing_version_is_refused(tmp_path: Path) -> None:
    model(tmp_path, CONFIG + "version_policy { specific { versions: [ 4 ] } }")
    with pytest.raises(RepositoryError, match=r"version_policy\.specific\.versions: names versions \[4\]"):
        ModelRepository(tmp_path).get("net")


def test_only_directories_with_a_config_are_models(tmp_path: Path) -> None:
    model(tmp_path, name="net")
    model(tmp_path, CONFIG.replace("net", "alpha"), name="alpha")
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("")
    assert [entry.name for entry in ModelRepository(tmp_path).scan()] == ["alpha", "net"]


@pytest.mark.parametrize(
    ("config", "line", "said"),
    [
        ('name: "net"\nbackend: "b"\nmax_batch: 8\n', 3, "max_batch"),
        ('name: "net"\nbackend: "b"\nmax_batch_size: lots\n', 3, "lots"),
        ('name: "net"\nbackend: "b"\ninput [ { name: "x"\n', None, ""),
        ('backend: "b"\n\nname: "other"\n', 3, "name: is 'other', but the model's directory is 'net'"),
        ('name: "net"\n', None, "backend: is missing"),
        ('name: "net"\nbackend: "b"\nmax_batch_size: -1\n', 3, "max_batch_size: is -1"),
        (
            'name: "net"\nbackend: "b"\ninstance_group [ {\n  count: 1\n  kind: KIND_MODEL\n} ]\n',
            5,
            "instance_group.kind: is KIND_MODEL",
        ),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, config: str, line: int | None, said: str) -> None:
    path = model(tmp_path, config)
    with pytest.raises(RepositoryError) as caught:
        ModelRepository(tmp_path).get("net")
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    if line is not None:
        assert caught.value.line == line
        assert f"{path}:{line}: " in str(caught.value)


def test_a_config_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = model(tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RepositoryError, match="not UTF-8"):
        ModelRepository(tmp_path).get("net")


def test_the_name_may_be_left_to_the_directory(tmp_path: Path) -> None:
    model(tmp_path, 'backend: "b"\n')
    assert ModelRepository(tmp_path).get("net").config.name == "net"


def test_a_model_without_versions_is_refused(tmp_path: Path) -> None:
    model(tmp_path, versions=())
    with pytest.raises(RepositoryError, match="holds no version"):
        ModelRepository(tmp_path).get("net")


def test_unknown_models_and_versions_name_what_there_is(tmp_path: Path) -> None:
    model(tmp_path, EVERY_VERSION, versions=("1", "2"))
    repository = ModelRepository(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no model 'gone'; it has net"):
        repository.get("gone")
    with pytest.raises(ModelNotFoundError, match="no version '3'; it has 1, 2"):
        repository.get("net").version_dir("3")
    with pytest.raises(ModelNotFoundError, match=r"no model '\.\./net'"):
        repository.get("../net")


def test_a_missing_repository_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="model_repository says where"):
        ModelRepository(tmp_path / "gone").scan()


def test_settings_of_a_model_have_tritons_defaults(tmp_path: Path) -> None:
    model(tmp_path)
    config = ModelRepository(tmp_path).get("net").config
    assert instance_kind(config) == "KIND_AUTO"
    assert max_queue_delay_s(config) == 0
    assert parameter(config, "max_batch_tokens", "7") == "7"


def test_settings_of_a_model_are_read(tmp_path: Path) -> None:
    model(
        tmp_path,
        CONFIG
        + "instance_group [ { kind: KIND_CPU } ]\ndynamic_batching { max_queue_delay_microseconds: 500 }\n"
        + 'parameters { key: "max_batch_tokens" value { string_value: "64" } }\n',
    )
    config = ModelRepository(tmp_path).get("net").config
    assert instance_kind(config) == "KIND_CPU"
    assert max_queue_delay_s(config) == pytest.approx(0.0005)
    assert parameter(config, "max_batch_tokens", "7") == "64"


@pytest.mark.parametrize("name", ["image_encoder", "text_encoder"])
def test_the_shipped_encoders_are_readable(name: str) -> None:
    entry = ModelRepository(SHIPPED).get(name)
    assert (entry.version_dir() / "card.json").is_file()
    assert entry.config.output[0].dims == [384]
