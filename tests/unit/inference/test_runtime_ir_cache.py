import threading
from pathlib import Path

import pytest

from nextact_server.inference.ir_cache import IrCache, IrCacheError


class Converter:
    def __init__(self, content: bytes = b"weights" * 1000) -> None:
        self.calls = 0
        self.content = content

    def __call__(self, target: Path) -> None:
        self.calls += 1
        (target / "model.xml").write_text("<net/>")
        (target / "model.bin").write_bytes(self.content)


@pytest.fixture
def convert() -> Converter:
    return Converter()


def test_a_model_is_converted_once(tmp_path: Path, convert: Converter) -> None:
    cache = IrCache(tmp_path / "models")
    entry = cache.get("net", "k1", convert)
    assert IrCache(tmp_path / "models").get("net", "k1", convert) == entry
    assert convert.calls == 1
    assert (entry / "model.bin").read_bytes() == convert.content


def test_another_key_is_another_entry(tmp_path: Path, convert: Converter) -> None:
    cache = IrCache(tmp_path)
    assert cache.get("net", "k1", convert) != cache.get("net", "k2", convert)
    assert convert.calls == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "sums", "no sums", "sums of another kind"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, convert: Converter, damage: str) -> None:
    cache = IrCache(tmp_path)
    entry = cache.get("net", "k", convert)
    file = entry / "model.bin"
    if damage == "flip":
        file.write_bytes(b"\0" + file.read_bytes()[1:])
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "remove":
        file.unlink()
    elif damage == "no sums":
        (entry / "sums.json").unlink()
    else:
        (entry / "sums.json").write_text("{" if damage == "sums" else "[1]")
    assert cache.get("net", "k", convert) == entry
    assert convert.calls == 2
    assert file.read_bytes() == convert.content
    cache.get("net", "k", convert)
    assert convert.calls == 2


def test_a_conversion_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path: Path, convert: Converter) -> None:
    def broken(target: Path) -> None:
        (target / "model.bin").write_bytes(b"half")
        raise OSError("disk full")

    cache = IrCache(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        cache.get("net", "k", broken)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    cache.get("net", "k", convert)
    assert convert.calls == 1


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path, convert: Converter) -> None:
    left_over = tmp_path / ".net-k.new-abc"
    left_over.mkdir()
    (left_over / "model.bin").write_bytes(b"half")
    IrCache(tmp_path).get("net", "k", convert)
    assert not left_over.exists()


def test_two_who_ask_at_once_convert_once(tmp_path: Path, convert: Converter) -> None:
    together = threading.Barrier(4)
    entries: list[Path] = []

    def ask() -> None:
        together.wait()
        entries.append(IrCache(tmp_path).get("net", "k", convert))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries) == 4
    assert convert.calls == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, convert: Converter) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IrCacheError, match=r"file/models: cannot keep converted models here"):
        IrCache(tmp_path / "file" / "models").get("net", "k", convert)
    assert convert.calls == 0
