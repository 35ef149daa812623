"""Where writing to a path really goes: to the target of a link, so that it stays a link, or to a stream such as
`/dev/stdout`.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

from ilse.core.errors import UserError
from ilse.core.files.json_files import is_stored

MAX_LINKS = 40
"""Links of links that are followed, as many as Linux does."""


def place_of(path: Path) -> Path:
    """The absolute path that is to be replaced, when something is written at `path`.

    Of a link it is what the link leads to, there or not. A link into DVC's or the Hub's store is itself the place, as
    files there never change. Raises `UserError` for a link that leads back to itself.
    """
    path = path.absolute()
    if not path.is_symlink():
        return path
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise refused(path, "a file or folder, or none yet", "a link that leads back to itself")
    return path if is_stored(real) else real


def is_stream(path: Path) -> bool:
    """Whether what is written to `path` passes through: a device, a pipe, or an open file of this process."""
    try:
        if _descriptor(path) is not None:
            return True
        mode = path.stat().st_mode  # one look: another process may put a folder in the place of this one
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    except (OSError, ValueError):  # nothing yet; whoever can't write there is told
        return False


def pour(file: Path, stream: Path) -> None:
    """Writes what the file holds to the stream."""
    number = _descriptor(stream)
    sys.stdout.flush()  # what was said before stands before
    with file.open("rb") as source, open(stream if number is None else os.dup(number), "wb") as target:
        shutil.copyfileobj(source, target)


def refused(path: Path | str, expected: str, found: str, option: str = "another name") -> UserError:
    """The error for a destination that is not written to; `option` is what chooses another one."""
    step = f"choose another one with {option}"
    return UserError(f"destination {path}", expected=expected, found=found, next_step=step)


def _descriptor(path: Path) -> int | None:
    """The number of this process's open file that the path names, as `/dev/stdout` and `/dev/fd/3` do."""
    path = path.absolute()
    for _ in range(MAX_LINKS):
        parent = Path(os.path.realpath(path.parent))
        if parent in (Path(f"/proc/{os.getpid()}/fd"), Path("/dev/fd")):
            return int(path.name) if path.name.isdigit() else None
        if not path.is_symlink():
            return None
        path = parent / path.readlink()
    return None
