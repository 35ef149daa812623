"""What became of a disturbed command, from how it ended and what stands there afterwards."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from benchmarks.commands.trees import Reference, Tree
from benchmarks.faults.judge import is_clear
from benchmarks.faults.starting import HUNG, Ended

FINE = "fine"
"""It ended well, and what it left equals what an undisturbed run leaves."""
REFUSED = "refused"
"""It said where, what was expected, what was found and what to do; nothing was lost or left half-written, and the same
command ran well once the cause was gone. A command that was told to end by a signal says so instead."""
LOST = "lost"
"""A byte of the user's, or an older result, is gone; or the same command does not run afterwards."""
ACCEPTED = "accepted"
"""A wrong result with exit code 0, or something half-written or unescaped that was left as if it were right."""
TRACEBACK = "traceback"
ABORT = "abort"
"""It was ended by a signal that nobody sent."""
SECRET = "secret"
"""A password is in what it said or in a file that it wrote."""
HANG = "hang"
UNCLEAR = "unclear"
"""It ended without the four-part error."""
VERDICTS = (FINE, REFUSED, LOST, ACCEPTED, TRACEBACK, ABORT, SECRET, HANG, UNCLEAR)
BAD = VERDICTS[2:]
PATIENCE = 20.0
"""Seconds after which a command counts as one that hangs."""
Found = tuple[str, str]
"""A verdict, and why."""
_CRASH = re.compile(r"Traceback \(most recent call last\)|panicked at|Fatal Python error")
_STOPPED = re.compile(r"interrupted|ended by SIG[A-Z]+")
"""What a command says that was told to end."""


def of_end(ended: Ended, sent: int = 0) -> Found | None:
    """The verdict on how it ended alone, where that is bad; `sent` is the signal that it was sent."""
    said = ended.said.strip()
    if ended.code == HUNG:
        return HANG, f"after {PATIENCE:.0f} s: {tail(said)}"
    if ended.code < 0 and -ended.code != sent:
        return ABORT, f"{signal.Signals(-ended.code).name}: {tail(said)}"
    if _CRASH.search(said):
        return TRACEBACK, tail(said)
    if sent and ended.code in (-sent, 128 + sent):
        return (
            None if _STOPPED.search(said) else (UNCLEAR, f"ended with {ended.code} and did not say why: {tail(said)}")
        )
    if ended.code != 0 and not is_clear(ended):
        return UNCLEAR, f"exit code {ended.code}: {tail(said)}"
    return None


def ended_before(reference: Reference, found: Tree, ended: Ended, sent: int) -> bool:
    """Whether the signal came when the work was done and all that was left was to leave."""
    return bool(sent) and ended.code == -sent and not reference.wrong(found)


def of_files(reference: Reference, found: Tree, ended: Ended, swept_later: bool = False) -> Found | None:
    """The verdict on what it left, where that is bad; what `swept_later` allows has to go with the next run."""
    if ended.code == 0:
        wrong = reference.wrong(found)
        return (ACCEPTED, f"other than undisturbed: {names(wrong)}") if wrong else None
    if lost := reference.lost(found):
        return LOST, f"neither as before nor as it should be: {names(lost)}"
    left = [] if swept_later else reference.left(found)
    return (ACCEPTED, f"left behind: {names(left)}") if left else None


def of_rerun(reference: Reference, found: Tree, ended: Ended) -> Found | None:
    """The verdict on the same command once the cause is gone."""
    if ended.code != 0:
        return LOST, f"the same command does not run afterwards: {ended.code}, {tail(ended.said)}"
    wrong = reference.wrong(found)
    return (ACCEPTED, f"after the next run, other than undisturbed: {names(wrong)}") if wrong else None


def names(found: Iterable[str]) -> str:
    """The first of them."""
    every = list(found)
    return ", ".join(every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "")


def tail(said: str, most: int = 400) -> str:
    """The end of what was said, on one line."""
    return " ".join(said.split())[-most:]
