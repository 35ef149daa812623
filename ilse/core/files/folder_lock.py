"""One process at a time into one folder; the second is refused with the name of the first."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ilse.core.errors import FailedError, UserError
from ilse.core.files.atomic import write_text
from ilse.core.terminal import say

LOCK = "lock"
"""The file of a folder that the system locks."""
HOLDER = "lock.json"
"""Who holds the lock."""
TRIES, PAUSE = 60, 0.05
"""How often, and seconds apart, for a lock that was just taken to get its holder's name, or for one that is being given
back to be free. A count: a process that was suspended in between looks again when it wakes up."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. `since` is by the holder's clock and only shown, never compared."""

    host: str
    pid: int
    since: str
    machine: str
    process_started: float
    token: str
    beat: int = 0

    def as_bytes(self) -> bytes:
        """The holder as stored next to the lock."""
        return json.dumps(asdict(self)).encode()

    @property
    def lives(self) -> bool:
        """Whether the process, of this machine, is there, and is the same one: its number may be another's by now."""
        import psutil

        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.process_started) < 2)
        except psutil.NoSuchProcess:
            return False


@contextmanager
def hold_folder(folder: Path, what: str) -> Iterator[None]:
    """Holds the lock of `folder`, which is made, for the block, with `what` naming in errors what it guards.

    The system keeps the lock, and takes it back from a process that dies. A folder in which nothing is left goes
    with it. Raises `UserError` with the holder's host and process id when another process holds it.
    """
    lock = _acquired(folder, what)
    try:
        if left := _read(folder):
            say(f"{named(left)} ended without releasing its lock; this run resumes from its finished work")
        write_text(folder / HOLDER, this_process().as_bytes().decode())
        yield
    finally:
        with suppress(OSError):  # only for show: a full disk must not keep the lock
            (folder / HOLDER).unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)  # whoever waits for this one sees that it has no name any more
            folder.rmdir()  # unless something is kept in it
        lock.release()


def empty(folder: Path) -> None:
    """Removes what a held folder keeps, for its holder. The lock stays: without it a second one could take a new lock,
    which the first would then give back as its own.
    """
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.name in (LOCK, HOLDER):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _acquired(folder: Path, what: str) -> Any:
    from filelock import FileLock, Timeout

    _require_no_others(folder / LOCK)
    for left in reversed(range(TRIES)):
        lock = FileLock(folder / LOCK, blocking=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            if (folder / LOCK).exists():
                return lock
            lock.release()  # of a folder that its last holder just removed
        except (FileNotFoundError, FileExistsError):
            if not left or folder.is_file():
                raise
        except Timeout as error:
            holder = _read(folder)
            # The name of one that is gone is about to be replaced.
            if not left or (holder and (holder.machine != machine() or holder.lives)):
                raise refusal(what, holder) from error
        time.sleep(PAUSE)
    raise RuntimeError(f"the lock of {folder} disappears whenever it is taken")


def _require_no_others(file: Path) -> None:
    """Locking a file empties it; a lock of ours is empty."""
    if os.path.lexists(file) and (file.is_symlink() or not file.is_file() or file.stat().st_size):
        raise UserError(
            f"destination {file}",
            expected="an empty file that says which run may write, or none yet",
            found="another one",
            next_step="name another folder, or another name for this file",
        )


def _read(folder: Path) -> Holder | None:
    try:
        return parsed((folder / HOLDER).read_bytes())
    except FileNotFoundError:
        return None


def this_process() -> Holder:
    """The holder that it would be."""
    import psutil

    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        process_started=psutil.Process().create_time(),
        token=secrets.token_hex(16),
    )


def machine() -> str:
    """Tells whether a process id means the same process: two containers may share a host's name, not its processes."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(16)  # equal to no other: then the beats decide


def parsed(content: bytes) -> Holder | None:
    """The holder that the content names; `None` when it can't be read as one."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None


def named(holder: Holder | None) -> str:
    """The holder, for messages."""
    if holder is None:
        return "a run whose name can't be read"
    return f"the run on {holder.host}, process {holder.pid}, since {holder.since}"


def refusal(what: str, holder: Holder | None) -> UserError:
    """The error for the second process."""
    return FailedError(
        what,
        expected="one run at a time",
        found=f"{named(holder)}, which holds the lock",
        next_step="wait for it, or stop it; finished work is kept",
    )
