"""A lock that allows one run at a time per destination, on disk or in an object store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from ilse.core.errors import FailedError
from ilse.core.files.folder_lock import HOLDER, Holder, hold_folder, machine, named, parsed, refusal, this_process
from ilse.core.terminal import say
from pipeline.store import Location

BEAT = 10.0
"""Seconds between two signs of life of a holder in an object store."""
SILENT_BEATS = 3
"""A holder elsewhere that gave no sign for this many beats is dead."""
SETTLE = 2.0
"""Seconds after a takeover before it is looked at again: of two at the same time, the later writer has it."""


class Lock:
    """A lock that is held."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lost_to: Holder | None = None

    def check(self) -> None:
        """Raises `UserError` when another run has taken the lock over; to be called now and then."""
        if self._lost_to is not None:
            raise FailedError(
                self._what,
                expected="the lock to stay with this run",
                found=f"that {named(self._lost_to)} took it over, when this one gave no sign for "
                f"{SILENT_BEATS * BEAT:.0f} s (suspended, or cut off from the network)",
                next_step="let the other run finish; finished shards are kept",
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
    if place.is_local:
        with hold_folder(place.path, what):
            yield Lock(what)
        return
    with _hold_prefix(place, what) as lock:
        yield lock


@contextmanager
def _hold_prefix(place: Location, what: str) -> Iterator[Lock]:
    mine = this_process()
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
            place.put(HOLDER, mine.as_bytes(), create=True)
            return
        except FileExistsError:
            content = _content(place)
        if content is None:  # just released
            continue
        there = parsed(content)
        if _token(there) == mine.token:  # the store had made it, and its answer was lost: the client tried again
            return
        if not _is_dead(place, there):
            raise refusal(what, there)
        say(f"{named(there)} is dead; taking its lock over")
        if _take_over(place, mine):
            return


def _take_over(place: Location, mine: Holder) -> bool:
    place.delete(HOLDER)
    with suppress(FileExistsError):
        place.put(HOLDER, mine.as_bytes(), create=True)
        time.sleep(SETTLE)
    return _token(_read(place)) == mine.token


def _is_dead(place: Location, holder: Holder | None) -> bool:
    if holder is not None and holder.machine == machine():
        return not holder.lives
    say(f"{named(holder)} holds the lock; waiting {SILENT_BEATS * BEAT:.0f}s for a sign of life")
    before = _content(place)
    for _ in range(SILENT_BEATS * 4):
        time.sleep(BEAT / 4)
        if _content(place) != before:
            return False
    return True


def _keep(place: Location, mine: Holder, lock: Lock, ended: threading.Event) -> None:
    """Gives a sign of life every beat, until the end or until the lock is another's."""
    beat = 0
    while not ended.wait(BEAT):
        beat += 1
        with suppress(Exception):  # the store is away: the next beat tries again, and sees whose the lock is then
            content = _content(place)
            there = parsed(content or b"")
            if there is not None and there.token != mine.token:
                lock._lost_to = there
                return
            # Created when it is missing: a challenger may stand between its deleting and its creating.
            place.put(HOLDER, replace(mine, beat=beat).as_bytes(), create=content is None)


def _content(place: Location) -> bytes | None:
    try:
        return place.get(HOLDER)
    except FileNotFoundError:
        return None


def _read(place: Location) -> Holder | None:
    return parsed(_content(place) or b"")


def _token(holder: Holder | None) -> str | None:
    return holder.token if holder else None
