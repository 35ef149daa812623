"""One suite for folders and for a real S3 server on loopback, and what a folder does when something is in the way."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import Location, location


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "folder":
        return Location(tmp_path / "cache.zarr")
    bucket: Location = request.getfixturevalue("bucket")
    return bucket


# What every place does.


def test_what_is_put_is_got(place: Location) -> None:
    for name, data in {"a": b"1", "deep/er/b": b"", "big": bytes(6 << 20), "per cent % é.json": b"x"}.items():
        place.put(name, data)
        assert place.get(name) == data
    place.put("a", b"another")
    assert place.get("a") == b"another"


def test_parts_of_a_file_are_read_into_place(place: Location) -> None:
    place.put("a/b", bytes(range(100)))
    parts = [(90, np.zeros(10, np.uint8)), (0, np.zeros(3, np.uint8)), (3, np.zeros(4, np.uint8))]
    place.read_into("a/b", parts)
    assert [part.tolist() for _, part in parts] == [list(range(90, 100)), [0, 1, 2], [3, 4, 5, 6]]
    for start in (98, 100, 200):
        with pytest.raises(EOFError, match="a/b ends before byte"):
            place.read_into("a/b", [(0, np.zeros(3, np.uint8)), (start, np.zeros(3, np.uint8))])
    place.put("a/empty", b"")
    with pytest.raises(EOFError, match="a/empty ends before byte 3"):
        place.read_into("a/empty", [(0, np.zeros(3, np.uint8))])
    with pytest.raises(FileNotFoundError):
        place.read_into("a/none", [(0, np.zeros(3, np.uint8))])


def test_to_announce_what_is_or_is_not_there_changes_nothing(place: Location) -> None:
    place.put("a/b", b"0123")
    for name in ("a/b", "a/none", "../outside"):
        place.announce(name, [(0, 2), (3, 100)])
    assert place.get("a/b") == b"0123"


def test_what_is_not_there_is_said_to_be_missing(place: Location) -> None:
    with pytest.raises(FileNotFoundError):
        place.get("none")
    place.put("file", b"")
    with pytest.raises(FileNotFoundError):
        place.get("file/below")
    assert list(place.list("none")) == []


def test_all_files_are_listed_with_their_sizes(place: Location) -> None:
    files = {"a": 1, "deep/b": 2, "deep/er/c": 3, "deeper/d": 4, "deep.e": 5}
    for name, size in files.items():
        place.put(name, bytes(size))
    assert dict(place.list()) == files
    assert dict(place.list("deep")) == {"deep/b": 2, "deep/er/c": 3}
    assert list(Location(f"{place}/empty").list()) == []


def test_more_files_than_a_server_lists_at_once_are_listed(place: Location) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: place.put(f"records/{number}", b""), range(1_005)))
    assert len(dict(place.list("records"))) == 1_005


def test_a_deleted_file_is_gone_and_deleting_again_is_no_error(place: Location) -> None:
    place.put("a/b", b"1")
    place.delete("a/b")
    place.delete("a/b")
    assert list(place.list()) == []


def test_children_and_siblings_are_apart(place: Location) -> None:
    place.child("records").put("1", b"child")
    place.sibling(".unfinished").put("1", b"sibling")
    assert place.get("records/1") == b"child"
    assert dict(place.list()) == {"records/1": 5}
    assert str(place.sibling(".unfinished")) == f"{place}.unfinished"
    assert Location(place) == place == Location(f"{place}/")


def test_only_the_first_creates(place: Location) -> None:
    place.put("lock", b"first", create=True)
    with pytest.raises(FileExistsError):
        place.put("lock", b"second", create=True)
    assert place.get("lock") == b"first"
    place.delete("lock")
    place.put("lock", b"third", create=True)
    assert place.get("lock") == b"third"


def test_of_many_that_create_at_once_one_does(tmp_path: Path) -> None:
    place = Location(tmp_path)

    def create(number: int) -> bool:
        try:
            place.put("lock", str(number).encode(), create=True)
        except FileExistsError:
            return False
        return True

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(create, range(8))) == 1
        place.delete("lock")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_a_file(place: Location) -> None:
    versions = {bytes([number]) * (200_000 * number + 1) for number in range(4)}
    place.put("a", min(versions))
    ended = threading.Event()

    def read() -> int:
        count = 0
        while not ended.is_set():
            assert place.get("a") in versions
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(8 if place.is_local else 3):
            for data in versions:
                place.put("a", data)
        ended.set()
        assert all(reader.result() > 0 for reader in readers)


# Folders.


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert Location((tmp_path / "a b").as_uri()) == Location(tmp_path / "a b")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        Location(tmp_path).put("a/b", b"1")
        Location(tmp_path).put("lock", b"1", create=True)
    finally:
        os.umask(before)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == mode
    assert (tmp_path / "lock").stat().st_mode & 0o777 == mode


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full after `size` bytes of a file; Python ignores the signal, so that the write itself fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("create", [False, True])
def test_a_write_that_fails_is_an_oserror_and_leaves_the_old_file_alone(tmp_path: Path, create: bool) -> None:
    place = Location(tmp_path)
    place.put("a", b"old")
    with file_size_limit(1_000), pytest.raises(OSError, match="File too large") as caught:
        place.put("b" if create else "a", bytes(100_000), create=create)
    assert caught.value.errno == errno.EFBIG
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"old"}


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """As a user who may not write there; root may write anywhere, so it steps down."""
    folder.chmod(0o500)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_missing_rights_are_an_oserror(tmp_path: Path) -> None:
    place = Location(tmp_path / "closed")
    place.put("a", b"1")
    with without_rights(place.path):
        with pytest.raises(PermissionError):
            place.put("b", b"2")
        with pytest.raises(PermissionError):
            place.delete("a")
    assert dict(place.list()) == {"a": 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="the owner of a folder may list it")
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path) -> None:
    Location(tmp_path).put("a/b", b"1")
    with without_rights(tmp_path), pytest.raises(PermissionError):
        list(Location(tmp_path).list())


def test_what_a_killed_writer_left_is_not_listed_and_is_swept(tmp_path: Path) -> None:
    place = Location(tmp_path)
    place.put("a/b", b"1")
    left = tmp_path / "a" / f".c.0123{location.PARTIAL}"
    left.write_bytes(b"half")
    assert dict(place.list()) == {"a/b": 1}
    place.sweep()
    assert not left.exists()
    assert place.get("a/b") == b"1"
