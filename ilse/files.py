"""Writes a file or a folder in one step: a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ilse.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Puts `text` at `path`, as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, values: Any) -> None:
    """Puts `values` at `path`, as indented JSON with a line end. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a free name; the file that the block makes there takes the place of `path` when the block ends well.

    A block that fails leaves `path` as it was; a killed process does too, and perhaps a hidden sibling
    `.NAME.*.partial`, which may be deleted. Raises `UserError` where `path` is a folder.
    """
    path = path.absolute()
    if path.is_dir():
        raise _refused(path, "a file, or none yet", "a folder")
    with _beside(path) as work:
        new = work / "new"
        yield new
        new.replace(path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well.

    A block that fails leaves `path` as it was; a killed process leaves the old folder or none, and perhaps a hidden
    sibling as `replacing` does. Raises `UserError` where `path` is a file, or holds the working directory, which
    replacing it would delete.
    """
    path = path.absolute()
    if Path.cwd().is_relative_to(path.resolve()):
        raise _refused(path, "a folder of its own, which is replaced as a whole", "the working directory, or above it")
    if path.exists() and not path.is_dir():
        raise _refused(path, "a folder, or none yet", "a file")
    with _beside(path) as work:
        new = work / "new"
        new.mkdir()
        yield new
        _swap(new, path, aside=work / "old")


def move_folder(folder: Path, path: Path) -> None:
    """Puts `folder` in the place of `path`, on the same disk; an older `path` goes when the new one stands."""
    with _beside(path) as work:
        _swap(folder, path, aside=work / "old")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that what is made in it moves by renaming within one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(new: Path, path: Path, aside: Path) -> None:
    try:
        # No call replaces a folder that is not empty, so the old one steps aside.
        if path.exists():
            path.rename(aside)
        new.rename(path)
    except BaseException:
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise


def _refused(path: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"destination {path}",
        expected=expected,
        found=found,
        next_step="name another destination, such as a folder or file inside the project",
    )
