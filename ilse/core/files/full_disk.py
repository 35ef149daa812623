"""Recognises errors of full disks, whatever library raised them: few raise the system's own error.

Polars, Arrow, safetensors and SQLite say it in the text of errors of their own, torch not even there; then the disk
itself is asked, which has to be done before what was written is removed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ilse.core.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, quota or file-size limit that leaves no room."""
DISK_ERRORS = (*FULL, errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO)
"""Error numbers of a disk that is full, that refuses our writes, or that fails."""
LITTLE = 4096
"""Bytes, less than which is a full disk: a block."""
_NUMBERED = re.compile(r"(?:os error |\[errno )(\d+)", re.IGNORECASE)
_WORDS = {
    **{os.strerror(number): number for number in FULL},
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
}


def disk_error(error: BaseException, place: Path | None = None) -> OSError | None:
    """The disk's error if it caused `error`; else None.

    With `place`, a path that was being written, a disk that is full now is the reason of any error that is not one of
    ours. Of a `UserError` only no room is one: what can't be read is for itself to say.

    Example: `disk_error(ComputeError("No space left on device (os error 28)"))` has `errno.ENOSPC`.
    """
    if not _is_failure(error):
        return None
    told = isinstance(error, UserError)
    for one in _chain(error):
        found = _said(one, place)
        if found is not None and (found.errno in FULL or (one is error and not told)):
            return found
    if place is not None and (not told or error.__cause__ is not None) and _is_full(place):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
    return None


def _said(error: BaseException, place: Path | None) -> OSError | None:
    """The system's error that this one is, or repeats."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return error
    text = str(error)
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in text:  # of a full one
        return OSError(errno.ENOSPC, text, os.environ.get("TMPDIR", "the temporary folder"))
    if isinstance(error, UserError):
        return None
    numbers = [int(number) for number in _NUMBERED.findall(text)]
    numbers += [number for words, number in _WORDS.items() if words in text]
    # Without a place that is written, permission may be refused by a network.
    known = (*FULL, errno.EIO) if place is None else DISK_ERRORS
    number = next((number for number in numbers if number in known), None)
    return None if number is None else OSError(number, os.strerror(number), None if place is None else str(place))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _is_failure(error: BaseException) -> bool:
    """No interruption: an `Exception`, or a panic, which each library in Rust derives from `BaseException`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _is_full(place: Path) -> bool:
    try:
        return shutil.disk_usage(place).free < LITTLE
    except OSError:
        return False
