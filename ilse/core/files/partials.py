"""Hidden folders in which outputs are made before they move into place, and what killed processes left of them.

    <folder>/.<name>.<random>.partial/lock        held as long as the process that made it lives
                                     /ilse-new    what is being made
                                     /ilse-old    what stood there before, while the two change places

Whoever writes into a folder next, or is told to (`ilse.core.files.destinations`), removes those that nobody holds.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ilse.core.files.full_disk import disk_error

LOCK, NEW, OLD = "lock", "ilse-new", "ilse-old"
_EARLIER = ("new", "old")
"""How earlier releases called them: anyone may call a file so, and a lock has to be beside it."""
_NAMED = re.compile(r"\.(?P<name>.+)\.[^.]+\.partial", re.DOTALL)
_TRIES = 20


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of `path`, which goes with the block.

    An error of a library that a full disk brought about is raised as the system's own, `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    work, lock = _made(path)
    try:
        yield work
    except BaseException as error:
        found = disk_error(error, work)  # now, while what was written still fills the disk
        name = found and _meant(found.filename, work, path)
        if found is None or (found is error and name == found.filename):
            raise
        raise OSError(found.errno, found.strerror, name) from error
    finally:
        try:
            _remove(work)
        finally:
            lock.release()


def _meant(written: str | None, work: Path, path: Path) -> str:
    """The name that a file in `work` would have had in the end."""
    file = Path(written or work)
    if not file.is_relative_to(work):
        return str(written)
    return str(path / file.relative_to(work / NEW) if file.is_relative_to(work / NEW) else path)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half-made in `folder`; what they had put aside goes back to its place."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            named = _NAMED.fullmatch(entry.name)
            if named and entry.is_dir(follow_symlinks=False):
                _sweep(Path(entry.path), folder / named["name"])


def _sweep(work: Path, path: Path) -> None:
    with suppress(OSError):
        work.rmdir()  # killed before it had a lock
        return
    found = set(os.listdir(work)) - {LOCK}
    # A thread of a library that was interrupted makes folders again after the lock is gone: a lock is not asked for.
    ours = (NEW, OLD, *(_EARLIER if (work / LOCK).exists() else ()))
    if not all(name.startswith(ours) for name in found):
        return
    lock = _taken(work / LOCK)
    if lock is None:
        return
    try:
        aside = max((work / name for name in found if name.startswith((OLD, _EARLIER[1]))), default=None)
        if aside is not None and not os.path.lexists(path):
            aside.rename(path)
        _remove(work)
    finally:
        lock.release()


def _remove(work: Path) -> None:
    """The lock goes last, and only with all else: without it nobody would know what is left.

    Something is where a removal is interrupted, or where a thread of a library goes on writing meanwhile.
    """
    with suppress(OSError):
        for name in set(os.listdir(work)) - {LOCK}:
            if (work / name).is_dir() and not (work / name).is_symlink():
                shutil.rmtree(work / name, ignore_errors=True)
            else:
                (work / name).unlink(missing_ok=True)
        if os.listdir(work) == [LOCK]:
            shutil.rmtree(work, ignore_errors=True)


def _made(path: Path) -> tuple[Path, Any]:
    """A new one, and its lock."""
    for _ in range(_TRIES):
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        with suppress(FileNotFoundError, FileExistsError):  # another one swept it before it had a lock
            lock = _taken(work / LOCK)
            if lock is not None and (work / LOCK).exists():
                return work, lock
    raise RuntimeError(f"no folder next to {path} can be kept")


def _taken(file: Path) -> Any:
    """The lock, if nobody has it. The system takes it back from a process that dies."""
    from filelock import FileLock, Timeout

    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
