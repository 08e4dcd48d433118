"""System shared memory: real objects of /dev/shm, made as clients make them."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from control_fakes import House
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import shared_memory as client_memory

from nextact_server.inference.infer_errors import ErrorCode, InferError

SIZE = 64
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def key() -> Iterator[str]:
    """An object of 64 bytes: 0, 1, 2, ..."""
    key = f"/nextact-{uuid.uuid4().hex}"
    handle = client_memory.create_shared_memory_region("region", key, SIZE)
    client_memory.set_shared_memory_region(handle, [np.arange(SIZE, dtype=np.uint8)])
    yield key
    client_memory.destroy_shared_memory_region(handle)


@pytest.fixture
def pages() -> Iterator[Path]:
    """An object of two pages, the second of ones."""
    path = Path(f"/dev/shm/nextact-{uuid.uuid4().hex}")
    path.write_bytes(bytes(PAGE) + b"\x01" * PAGE)
    yield path
    path.unlink(missing_ok=True)


def register(house: House, name: str, key: str, offset: int = 0, byte_size: int = SIZE) -> None:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=byte_size)
    house.call("SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)


def status(house: House, name: str = "") -> dict[str, tuple[Any, ...]]:
    request = pb.SystemSharedMemoryStatusRequest(name=name)
    regions = house.call("SystemSharedMemoryStatus", request, pb.SystemSharedMemoryStatusResponse).regions
    return {key: (region.name, region.key, region.offset, region.byte_size) for key, region in regions.items()}


def unregister(house: House, name: str = "") -> None:
    request = pb.SystemSharedMemoryUnregisterRequest(name=name)
    house.call("SystemSharedMemoryUnregister", request, pb.SystemSharedMemoryUnregisterResponse)


def open_files(key: str) -> int:
    """How often this process has the object open."""
    return sum(link.is_symlink() and str(link.readlink()).endswith(key) for link in Path("/proc/self/fd").iterdir())


def test_what_a_client_wrote_is_read_and_the_reverse(house: House, key: str) -> None:
    register(house, "r", key)
    assert bytes(house.memory.read("r", 0, SIZE)) == bytes(range(SIZE))
    assert bytes(house.memory.read("r", 60, 4)) == bytes([60, 61, 62, 63])
    house.memory.write("r", 8, [b"ab", np.array([7, 8], np.uint8).data, b""])
    assert Path(f"/dev/shm{key}").read_bytes()[6:14] == b"\x06\x07ab\x07\x08\x0c\x0d"


@given(parts=st.lists(st.binary(max_size=9), max_size=12), offset=st.integers(0, SIZE - 1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(pages: Path, parts: list[bytes], offset: int) -> None:
    house = House()
    register(house, "r", pages.name, PAGE, PAGE)
    whole = b"".join(parts)
    house.memory.write("r", offset, parts)
    if whole:
        assert bytes(house.memory.read("r", offset, len(whole))) == whole


def test_more_buffers_than_one_call_takes_are_written(house: House, pages: Path) -> None:
    register(house, "r", pages.name, 0, 2 * PAGE)
    house.memory.write("r", 0, [bytes([number % 256]) for number in range(2000)])
    assert pages.read_bytes()[:2000] == bytes(number % 256 for number in range(2000))


def test_what_was_read_is_a_copy_that_the_peer_cannot_change(house: House, key: str) -> None:
    register(house, "r", key)
    view = house.memory.read("r", 0, 4)
    Path(f"/dev/shm{key}").write_bytes(bytes(SIZE))
    assert bytes(view) == b"\x00\x01\x02\x03"
    assert not view.readonly


def test_a_region_may_begin_at_a_later_page(house: House, pages: Path) -> None:
    register(house, "r", f"/{pages.name}", PAGE, PAGE)
    assert bytes(house.memory.read("r", 0, 2)) == b"\x01\x01"
    with pytest.raises(InferError, match="Invalid offset"):
        house.memory.read("r", PAGE, 1)


def test_the_status_tells_what_is_registered(house: House, key: str) -> None:
    assert status(house) == {}
    register(house, "b", key)
    register(house, "a", key.lstrip("/"), 0, 8)
    register(house, "c", f"/{key}")
    assert status(house) == {
        "a": ("a", key.lstrip("/"), 0, 8),
        "b": ("b", key, 0, SIZE),
        "c": ("c", f"/{key}", 0, SIZE),
    }
    assert status(house, "b") == {"b": ("b", key, 0, SIZE)}
    with pytest.raises(InferError, match="Unable to find system shared memory region: 'nosuch'") as no:
        status(house, "nosuch")
    assert no.value.code is ErrorCode.NOT_FOUND


def test_regions_are_forgotten_one_by_one_or_all_and_a_missing_one_is_no_error(house: House, key: str) -> None:
    for name in ("a", "b", "c"):
        register(house, name, key)
    unregister(house, "b")
    unregister(house, "b")
    unregister(house, "nosuch")
    assert set(status(house)) == {"a", "c"}
    unregister(house)
    assert status(house) == {}
    register(house, "a", key)


def test_a_name_is_registered_once(house: House, key: str) -> None:
    register(house, "r", key)
    with pytest.raises(InferError, match="shared memory region 'r' already in manager") as no:
        register(house, "r", key)
    assert no.value.code is ErrorCode.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("offset", "byte_size", "reason"),
    [
        (0, SIZE + 1, "invalid args"),
        (0, 1 << 20, "invalid args"),
        (100, 8, "invalid args"),
        (60, 8, "invalid args"),
        (2**63, 8, "invalid args"),
        (2**64 - 4, 8, "invalid args"),
        (0, 2**64 - 1, "invalid args"),
        (0, 0, "unable to process address spaceInvalid argument"),
        (8, 8, "unable to process address spaceInvalid argument"),
    ],
)
def test_a_region_lies_within_its_object(house: House, key: str, offset: int, byte_size: int, reason: str) -> None:
    with pytest.raises(InferError) as no:
        register(house, "r", key, offset, byte_size)
    assert no.value.code is ErrorCode.INVALID_ARG
    assert no.value.message == f"failed to register shared memory region 'r': {reason}"
    assert status(house) == {}


@pytest.mark.parametrize(
    "bad",
    ["", "/", "/nosuchkey", "/../etc/passwd", "../../etc/passwd", "/.", "/..", "/a/b", "/ab\0c", "/" + "a" * 300],
)
def test_a_key_that_opens_nothing_is_refused(house: House, bad: str) -> None:
    with pytest.raises(InferError) as no:
        register(house, "r", bad)
    assert (no.value.code, no.value.message) == (
        ErrorCode.INTERNAL,
        f"Unable to open shared memory region: '{bad}'",
    )


def test_links_pipes_and_directories_are_no_memory(house: House, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(SIZE))
    made = [Path(f"/dev/shm/nextact-{kind}-{uuid.uuid4().hex}") for kind in ("link", "pipe", "directory")]
    made[0].symlink_to(outside)
    os.mkfifo(made[1])
    made[2].mkdir()
    try:
        for path in made:
            with pytest.raises(InferError, match="Unable to open shared memory region"):
                register(house, "r", path.name)
    finally:
        made[0].unlink()
        made[1].unlink()
        made[2].rmdir()


@pytest.mark.parametrize(
    ("region", "offset", "byte_size", "code", "message"),
    [
        ("nosuch", 0, 16, ErrorCode.NOT_FOUND, "Unable to find shared memory region: 'nosuch'"),
        ("r", 1000, 16, ErrorCode.INVALID_ARG, "Invalid offset for shared memory region: 'r'"),
        ("r", 64, 1, ErrorCode.INVALID_ARG, "Invalid offset for shared memory region: 'r'"),
        ("r", -4, 16, ErrorCode.INVALID_ARG, "Invalid offset for shared memory region: 'r'"),
        ("r", 0, 128, ErrorCode.INVALID_ARG, "Invalid offset + byte size for shared memory region: 'r'"),
        ("r", 60, 16, ErrorCode.INVALID_ARG, "Invalid offset + byte size for shared memory region: 'r'"),
        ("r", 0, 0, ErrorCode.INVALID_ARG, "Invalid offset + byte size for shared memory region: 'r'"),
        ("r", 0, -1, ErrorCode.INVALID_ARG, "Invalid offset + byte size for shared memory region: 'r'"),
    ],
)
def test_a_tensor_lies_within_a_registered_region(
    house: House, key: str, region: str, offset: int, byte_size: int, code: ErrorCode, message: str
) -> None:
    register(house, "r", key)
    with pytest.raises(InferError) as no:
        house.memory.window(region, offset, byte_size)
    assert (no.value.code, no.value.message) == (code, message)


def test_a_response_that_does_not_fit_writes_nothing(house: House, key: str) -> None:
    register(house, "r", key)
    window = house.memory.window("r", 0, 4)
    with pytest.raises(InferError, match="5 bytes do not fit into the 4 bytes of shared memory given"):
        window.write([b"aaaa", b"b"])
    assert bytes(window.read()) == b"\x00\x01\x02\x03"


def test_who_holds_a_window_may_use_it_after_the_region_is_gone(house: House, key: str) -> None:
    register(house, "r", key)
    window = house.memory.window("r", 0, 4)
    unregister(house, "r")
    window.write([b"done"])
    assert bytes(window.read()) == b"done"
    with pytest.raises(InferError, match="Unable to find shared memory region: 'r'"):
        house.memory.window("r", 0, 4)


def test_a_region_that_nobody_holds_leaves_no_file_open(house: House, key: str) -> None:
    before = open_files(key)
    for _ in range(5):
        register(house, "r", key)
        unregister(house, "r")
        with pytest.raises(InferError):
            register(house, "r", key, 0, SIZE + 1)
    assert open_files(key) == before


def test_an_object_cut_short_by_its_owner_is_an_error_and_not_the_end(house: House, pages: Path) -> None:
    register(house, "r", pages.name, 0, 2 * PAGE)
    os.truncate(pages, PAGE)
    for use in (
        lambda: house.memory.read("r", 0, 2 * PAGE),
        lambda: house.memory.read("r", PAGE, 1),
        lambda: house.memory.write("r", PAGE - 1, [b"ab"]),
    ):
        with pytest.raises(InferError, match="became smaller than it was registered"):
            use()
    assert pages.stat().st_size == PAGE, "the object is the peer's, and is not made longer"
    assert bytes(house.memory.read("r", 0, 1)) == b"\x00"
