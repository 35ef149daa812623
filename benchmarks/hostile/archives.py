"""Wheels and zips, opened by `ilse fetch` and, as a data set, by `ilse prepare`."""

from __future__ import annotations

import functools
import hashlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import yaml

from benchmarks.hostile.judge import Case
from benchmarks.hostile.opening import Ended, Opener, ilse
from benchmarks.hostile.spoiling import PICKLE, Craft

WHEEL, ZIP = "toys-1.0-py3-none-any.whl", "source.zip"
Build = Callable[[Path], object]


def cases() -> Iterator[Case]:
    """All of them."""
    for name, build in ARCHIVES.items():
        yield Case("wheel", name, wheel(build), fetched)
        yield Case("zip", name, data_set(build), ilse("prepare", "--out", "data/other"))
    yield Case("wheel", "other bytes than were pinned", wheel(members({"toys/a": b"a"}), pinned="0" * 64), fetched)
    yield Case("wheel", "a file where a folder is to be", wheel(members({"toys/a": b"a", "toys/a/b": b"b"})), fetched)
    yield Case("wheel", "a name of 300 letters", wheel(members({"toys/" + "a" * 300: b"a"})), fetched)
    yield Case("wheel", "a name that is a dot", wheel(members({"toys/.": b"a"})), fetched)


def fetched() -> Ended:
    """`ilse fetch`, given the wheel where pip would have put it."""
    with patch("pipeline.stages.fetch.download_wheel", lambda *_: Path(WHEEL)):
        opener: Opener = ilse("fetch", "toys", "--out", "data/raw")
        return opener()


def wheel(build: Build, pinned: str = "") -> Craft:
    """The parameters that fetch its folder `toys`, pinned by its checksum."""

    def craft() -> None:
        build(Path(WHEEL))
        digest = pinned or hashlib.sha256(Path(WHEEL).read_bytes()).hexdigest()
        section = {"kind": "wheel", "package": "toys", "version": "1.0", "folder": "toys", "wheel_sha256": digest}
        _set("fetch", {"toys": section})

    return craft


def data_set(build: Build) -> Craft:
    """The parameters that read it as a folder of texts by label."""

    def craft() -> None:
        build(Path(ZIP))
        _set("prepare", {"path": ZIP})

    return craft


def _set(section: str, values: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**params, section: values}))


def members(files: dict[str, bytes], kind: int = stat.S_IFREG, more: dict[str, bytes] | None = None) -> Build:
    """A zip of files of a kind, and of ordinary ones."""

    def build(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.create_system, info.external_attr = 3, (kind | 0o644) << 16
                archive.writestr(info, data)
            for name, data in (more or {}).items():
                archive.writestr(name, data)

    return build


def twice(path: Path) -> None:
    """A member that stands in it twice."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toys/a", b"one")
        archive.NameToInfo.clear()  # so that the library does not warn
        archive.writestr("toys/a", b"two")


def patched(old: bytes, new: bytes, path: Path) -> None:
    """A zip whose bytes say something else in both places where a member is described."""
    members({"toys/a": b"x" * 100})(path)
    if path.read_bytes().count(old) != 2:
        raise ValueError(f"{old!r} does not stand where a member is described")
    path.write_bytes(path.read_bytes().replace(old, new))


def sized(size: int, packed: bytes, path: Path) -> None:
    """A member that declares `size` bytes and holds `packed` ones."""
    info = zipfile.ZipInfo("toys/a")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, packed)
        info.file_size, info.compress_type = size, zipfile.ZIP_DEFLATED


def bomb(path: Path) -> None:
    """Two gigabytes of zeros in two megabytes: blocks of deflate that repeat."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    sized(2**31, block * 2**11 + packer.flush(), path)


ARCHIVES: dict[str, Build] = {
    "a name that climbs": members({"toys/../../../outside/new": b"a"}),
    "an absolute name": members({"/tmp/toys": b"a"}),
    "a name with a drive": members({"C:/toys": b"a"}),
    "a name with a backslash": members({"toys\\..\\..\\a": b"a"}),
    "a link": members({"toys/a": b"../../outside/secret"}, stat.S_IFLNK),
    "a device": members({"toys/a": b""}, stat.S_IFCHR),
    "a pipe": members({"toys/a": b""}, stat.S_IFIFO),
    "a member twice": twice,
    "a bomb": bomb,
    "2⁴⁰ declared bytes": functools.partial(sized, 2**40, b"x"),
    "fewer bytes than declared": functools.partial(sized, 1000, zlib.compress(b"x" * 100)[2:-4]),
    "another checksum": functools.partial(patched, zlib.crc32(b"x" * 100).to_bytes(4, "little"), bytes(4)),
    "an unknown compression": functools.partial(patched, b"\x08\x00\x00\x00\x21\x00", b"\x63\x00\x00\x00\x21\x00"),
    "no zip": lambda path: path.write_bytes(PICKLE),
    "no byte": lambda path: path.write_bytes(b""),
    "half of it": lambda path: (members({"toys/a": b"x"})(path), path.write_bytes(path.read_bytes()[:60])),
}
