"""Reads zip archives (wheels are zips) without trusting them: names, sizes and checksums are checked, nothing runs."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ilse.core.errors import UserError
from ilse.core.files.bombs import MOST_PACKED, is_bomb

MAX_BYTES = 64 * 2**30
"""Bytes an archive may unpack to unless its artifact says otherwise: a 30B model in bfloat16 still fits."""

_BLOCK = 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold; a fixed one gives the same bytes each time


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip at `path`; a `UserError` where it, or a member read inside the block, is broken or encrypted."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    # zipfile raises RuntimeError for a password, NotImplementedError for a compression it lacks
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"archive {path}",
            expected="a whole, unencrypted zip file",
            found=str(error) or type(error).__name__,
            next_step="delete the file, fetch it again, and compare its checksum with the publisher's",
        ) from error


def safe_members(archive: zipfile.ZipFile, max_bytes: int = MAX_BYTES) -> list[zipfile.ZipInfo]:
    """The archive's files, sorted by name; `UserError` for any name or size that an honest archive does not have."""
    seen: set[str] = set()
    for info in archive.infolist():
        flaw = _flaw(info) or ("stands twice" if info.filename in seen else "")
        if flaw:
            raise UserError(
                f"archive {archive.filename}",
                expected="plain files under relative names, each once",
                found=f"member {info.orig_filename!r}, which {flaw}",
                next_step="do not use this archive; tell its publisher",
            )
        seen.add(info.filename)
    members = [info for info in archive.infolist() if not info.is_dir()]
    declared = sum(info.file_size for info in members)
    if declared > max_bytes:
        raise UserError(
            f"archive {archive.filename}",
            expected=f"at most {max_bytes:,} bytes unpacked",
            found=f"{declared:,} bytes declared",
            next_step="raise max_bytes if you trust the archive",
        )
    if is_bomb(declared, sum(info.compress_size for info in members)):
        raise UserError(
            f"archive {archive.filename}",
            expected=f"at most {MOST_PACKED} bytes per compressed byte",
            found=f"{declared:,} bytes declared in a file of {sum(info.compress_size for info in members):,}",
            next_step="do not use this archive; tell its publisher",
        )
    return sorted(members, key=lambda info: info.filename)


def gunzip(data: bytes) -> bytes:
    """The content of a gzip file. Raises `OSError` for a bomb, besides what the library raises for a broken one."""
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while block := file.read(_BLOCK):
            size += len(block)
            if is_bomb(size, len(data)):
                raise OSError(f"more than {MOST_PACKED} bytes per compressed byte")
            parts.append(block)
    return b"".join(parts)


def _flaw(info: zipfile.ZipInfo) -> str:
    """Says what is wrong with a member's name or kind, if anything."""
    # zipfile rewrites NUL bytes and foreign separators in `filename`; the archive's own spelling is the one to judge
    name = info.orig_filename
    if "\\" in name or "\0" in name or ":" in name.split("/")[0]:
        return "has a backslash, a NUL or a drive letter in its name"
    if name.startswith("/"):
        return "has an absolute name"
    if ".." in name.split("/"):
        return "climbs out of its folder"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a special file"
    return ""


def copy_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, write: Callable[[bytes], object]) -> str:
    """Stream one member into `write` and return its SHA-256 (hex); stops once it grows past its declared size."""
    digest, written = hashlib.sha256(), 0
    with archive.open(info) as source:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > info.file_size:
                break
            digest.update(block)
            write(block)
    if written != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} declares {info.file_size:,} bytes and holds another number")
    return digest.hexdigest()


def repack(archive: zipfile.ZipFile, folder: str, target: Path, max_bytes: int = MAX_BYTES) -> int:
    """Write all files below `folder` into the uncompressed zip `target`; returns their number.

    The same members give the same bytes: sorted names, one fixed time and mode, no compression.
    """
    members = _below(archive, folder, max_bytes)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for name, info in members.items():
            plain = zipfile.ZipInfo(name, _EPOCH)
            plain.create_system = 3  # Unix, wherever this runs
            plain.external_attr = (stat.S_IFREG | 0o644) << 16
            plain.file_size = info.file_size  # lets zipfile choose zip64 for members over 2 GiB
            with packed.open(plain, "w") as entry:
                copy_member(archive, info, entry.write)
    return len(members)


def unpack(archive: zipfile.ZipFile, folder: str, target: Path, max_bytes: int = MAX_BYTES) -> int:
    """Write all files below `folder` into the folder `target`, sub-folders included; returns their number."""
    members = _below(archive, folder, max_bytes)
    for name, info in members.items():
        path = target / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise zipfile.BadZipFile(f"{name[:80]} is both a file and a folder") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise zipfile.BadZipFile(f"{name[:80]}… is longer than names of files may be") from error
        with file:
            copy_member(archive, info, file.write)
    return len(members)


def _below(archive: zipfile.ZipFile, folder: str, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's files below `folder`, by their names there."""
    below = folder.rstrip("/") + "/"
    members = safe_members(archive, max_bytes)
    return {info.filename.removeprefix(below): info for info in members if info.filename.startswith(below)}


def check_sha256(where: str, expected: str, found: str) -> None:
    """Raise a `UserError` naming both sums when they differ."""
    if expected != found:
        raise UserError(
            where,
            expected=f"sha256 {expected}",
            found=f"sha256 {found}",
            next_step="find out why the bytes differ before you change the checksum",
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file (hex), read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
