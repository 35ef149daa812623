"""One run at a time into one place, on disk or in an object store."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ilse.errors import UserError
from pipeline.store import Location

LOCK = "lock"
"""The file of a folder that the system locks."""
HOLDER = "lock.json"
"""Who holds the lock; in an object store this object is the lock itself."""
BEAT = 10.0
"""Seconds between two signs of life of a holder in an object store."""
SILENT_BEATS = 3
"""A holder elsewhere that gave no sign for so many beats is dead."""
SETTLE = 2.0
"""Seconds after a takeover before it is looked at again: of two at the same time, the later writer has it."""


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


class Lock:
    """A lock that is held."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lost_to: Holder | None = None

    def check(self) -> None:
        """Raises `UserError` when another run has taken the lock over; to be called now and then."""
        if self._lost_to is not None:
            raise UserError(
                self._what,
                expected="the lock to stay with this run",
                found=f"that {_named(self._lost_to)} took it over, when this one gave no sign for "
                f"{SILENT_BEATS * BEAT:.0f} s (suspended, or cut off from the network)",
                next_step="let the other run end; finished shards are kept",
            )


@contextmanager
def hold(place: Location, what: str) -> Iterator[Lock]:
    """Holds the lock of a folder or prefix for the block, with `what` naming in errors what it guards.

    Raises `UserError` with the holder's host and process id when another run holds it; the lock of a holder that died
    is taken over. In a folder the system keeps the lock, and takes it back from a process that dies. In an object store
    it is an object that its holder rewrites every `BEAT` seconds: a dead holder is known at once on its own machine and
    after `SILENT_BEATS` silent beats elsewhere, without comparing clocks. Two that take over at the same moment, and a
    holder that wakes up after that, are told apart by a token within a beat; `Lock.check` stops the one that lost.
    """
    with _hold_folder(place, what) if place.is_local else _hold_prefix(place, what) as lock:
        yield lock


@contextmanager
def _hold_folder(place: Location, what: str) -> Iterator[Lock]:
    from filelock import FileLock, Timeout

    place.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.path / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise _refusal(what, _read(place)) from error
    try:
        if left := _read(place):
            _say(f"{_named(left)} ended without giving its lock back; this run goes on from what it finished")
        place.put(HOLDER, _as_bytes(_me()))
        yield Lock(what)
    finally:
        with suppress(OSError):  # only for show: a full disk must not keep the lock
            place.delete(HOLDER)
        lock.release()


@contextmanager
def _hold_prefix(place: Location, what: str) -> Iterator[Lock]:
    mine = _me()
    _take(place, what, mine)
    lock, ended = Lock(what), threading.Event()
    thread = threading.Thread(target=_keep, args=(place, mine, lock, ended), name="lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        ended.set()
        thread.join(SILENT_BEATS * BEAT)
        with suppress(Exception):  # a store that is gone keeps the object, which then falls silent
            if not thread.is_alive() and _token(_read(place)) == mine.token:
                place.delete(HOLDER)


def _take(place: Location, what: str, mine: Holder) -> None:
    """Creates the lock object, after removing a dead holder's. Raises `UserError` when a living one holds it."""
    while True:
        try:
            place.put(HOLDER, _as_bytes(mine), create=True)
            return
        except FileExistsError:
            content = _content(place)
        if content is None:  # just released
            continue
        there = _parsed(content)
        if _token(there) == mine.token:  # the store had made it, and its answer was lost: the client tried again
            return
        if not _is_dead(place, there):
            raise _refusal(what, there)
        _say(f"{_named(there)} is dead; taking its lock over")
        if _take_over(place, mine):
            return


def _take_over(place: Location, mine: Holder) -> bool:
    place.delete(HOLDER)
    with suppress(FileExistsError):
        place.put(HOLDER, _as_bytes(mine), create=True)
        time.sleep(SETTLE)
    return _token(_read(place)) == mine.token


def _is_dead(place: Location, holder: Holder | None) -> bool:
    if holder is not None and holder.machine == _machine():
        return not _lives(holder)
    _say(f"{_named(holder)} holds the lock; watching for {SILENT_BEATS * BEAT:.0f} s whether it gives signs of life")
    before = _content(place)
    for _ in range(SILENT_BEATS * 4):
        time.sleep(BEAT / 4)
        if _content(place) != before:
            return False
    return True


def _lives(holder: Holder) -> bool:
    """Whether the process is there, and is the same one: its number may be another's by now."""
    import psutil

    try:
        return bool(abs(psutil.Process(holder.pid).create_time() - holder.process_started) < 2)
    except psutil.NoSuchProcess:
        return False


def _keep(place: Location, mine: Holder, lock: Lock, ended: threading.Event) -> None:
    """Gives a sign of life every beat, until the end or until the lock is another's."""
    beat = 0
    while not ended.wait(BEAT):
        beat += 1
        with suppress(Exception):  # the store is away: the next beat tries again, and sees whose the lock is then
            content = _content(place)
            there = _parsed(content or b"")
            if there is not None and there.token != mine.token:
                lock._lost_to = there
                return
            # Created when it is missing: a challenger may stand between its deleting and its creating.
            place.put(HOLDER, _as_bytes(replace(mine, beat=beat)), create=content is None)


def _me() -> Holder:
    import psutil

    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        process_started=psutil.Process().create_time(),
        token=secrets.token_hex(16),
    )


def _machine() -> str:
    """Tells whether a process id means the same process: two containers may share a host's name, not its processes."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return secrets.token_hex(16)  # equal to no other: then the beats decide


def _content(place: Location) -> bytes | None:
    try:
        return place.get(HOLDER)
    except FileNotFoundError:
        return None


def _read(place: Location) -> Holder | None:
    return _parsed(_content(place) or b"")


def _parsed(content: bytes) -> Holder | None:
    """The holder that the content names; `None` when it can't be read as one."""
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _as_bytes(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _token(holder: Holder | None) -> str | None:
    return holder.token if holder else None


def _named(holder: Holder | None) -> str:
    if holder is None:
        return "a run whose name can't be read"
    return f"the run on {holder.host}, process {holder.pid}, since {holder.since}"


def _refusal(what: str, holder: Holder | None) -> UserError:
    return UserError(
        what,
        expected="one run at a time",
        found=f"{_named(holder)}, which holds the lock",
        next_step="wait for it, or end it; what it has finished is kept",
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
