"""Writes a file or a folder in one step: a reader sees the old one or the new one, never half of one.

A link stays a link, and what is no plain file is written to as a stream (`ilse.core.files.places`). A folder is
replaced where it is one of ours or empty (`ilse.core.files.ownership`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from ilse.core.files.ownership import Made
from ilse.core.files.partials import NEW, OLD, beside
from ilse.core.files.places import is_stream, place_of, pour, refused

_A_FILE = "a file of this name"
_LOOKS = 100
"""How often a folder is looked at that changes all the while."""


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
    `.NAME.*.partial`, which goes when something is next written there (`ilse.core.files.partials`). A stream gets the
    whole file once the block has ended. Raises `UserError` where `path` is a folder.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as work:
            new = Path(work) / "new"
            yield new
            pour(new, path)
        return
    path = place_of(path)
    if path.is_dir():
        raise refused(path, "a file, or none yet", "a folder")
    with beside(path) as work_beside:
        new = work_beside / NEW
        yield new
        new.replace(path)


@contextmanager
def replacing_folder(path: Path, made: Made, option: str = "another name") -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well.

    A block that fails leaves `path` as it was; a killed process leaves the old folder, perhaps in a hidden sibling as
    `replacing` does, from where it comes back. Raises `UserError` as `require_ours` does, at once and where something
    else has come into the folder meanwhile.
    """
    require_ours(path, made, option)
    path = place_of(path)
    with beside(path) as work:
        new = work / NEW
        new.mkdir()
        yield new
        _swap(new, path, work, made, option)


def move_folder(folder: Path, path: Path, made: Made) -> None:
    """Puts `folder` in the place of `path`; an older `path` goes when the new one stands, unless it is not ours.

    Between two disks it is copied first.
    """
    path = place_of(path)
    with beside(path) as work:
        try:
            _swap(folder, path, work, made, "--out")
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _swap(shutil.copytree(folder, work / NEW), path, work, made, "--out")


def require_ours(path: Path, made: Made, option: str = "another name") -> None:
    """Raises `UserError` unless a folder of this kind may take the place of `path`.

    There is nothing yet, an empty folder, or one that we made and that holds nothing else. It is not the working
    directory, nor a folder above it, nor where a disk is mounted, which can't be replaced.
    """
    place = place_of(path)
    expected = f"a folder of its own, which is replaced as a whole: none yet, an empty one, or {made.what}"
    if Path.cwd().is_relative_to(place.resolve()):
        raise refused(path, expected, "the working directory, or a folder above it", option)
    if os.path.ismount(place):
        raise refused(path, expected, "a place where a disk is mounted", f"{option}, such as a folder in it")
    for _ in range(_LOOKS):
        before = _state(place)
        found = _in_the_way(place, made)
        if found is None or _state(place) == before is not None:
            break  # else another process put a folder of its own there in between
    if found is not None:
        next_step = option if found == _A_FILE else f"{option}, or move this file away"
        raise refused(path, expected, found if found == _A_FILE else f"a folder with {found}", next_step)


def _in_the_way(place: Path, made: Made) -> str | None:
    """What is not ours there, including what only seems so while another process puts a new folder in its place."""
    try:
        return made.foreign(place) if stat.S_ISDIR(place.stat().st_mode) else _A_FILE
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).name!r}, which appeared and disappeared" if os.path.lexists(place) else None


def _state(place: Path) -> tuple[int, int, int] | None:
    """Differs once something else stands in the place, or something has come into the folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = place.stat()
        return found.st_dev, found.st_ino, found.st_ctime_ns
    return None


def _swap(new: Path, path: Path, work: Path, made: Made, option: str) -> None:
    """Swaps the new folder in. If several processes do so at once, the last one wins, with a whole folder."""
    for number in count():
        # No call replaces a folder that is not empty, so the old one steps aside.
        aside = work / f"{OLD}-{number}"
        try:
            with suppress(FileNotFoundError):
                path.rename(aside)
            if (found := _in_the_way(aside, made)) is not None:
                raise refused(path, f"{made.what} alone", f"{found}, which has appeared meanwhile", option)
            new.rename(path)
            return
        except BaseException as error:
            if _lost_to_another(error):
                continue
            if aside.exists() and not path.exists():
                aside.rename(path)
            raise


def _lost_to_another(error: BaseException) -> bool:
    """Whether another process put its folder there first."""
    return isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)
