"""A crafted artifact and the verdict on what became of it."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any
from unittest.mock import patch

from benchmarks.faults.judge import is_clear
from benchmarks.faults.starting import Ended as Said
from benchmarks.hostile.opening import Ended, Opener
from pipeline.model import load

REFUSED, ACCEPTED, TRACEBACK = "refused", "accepted", "traceback"
MEMORY = 600 * 2**20
"""Bytes by which opening may raise the process's peak: libraries that are loaded meanwhile, and no crafted shape."""
ROOM = 6 * 2**30
"""Address space left to the process, so that a shape that is believed ends here and not with the machine."""
PATIENCE = 60
"""Seconds after which an opener counts as one that hangs."""
SECRET = "outside/secret"
"""Beside the project, for links and names that lead out of it; nothing may touch it or say what is in it."""
SECRET_TEXT = "the text that stands outside"
OWNED = "owned"
"""A file that crafted code would make, if it ran."""


@dataclass(frozen=True)
class Case:
    """One crafted artifact.

    Parameters
    ----------
    kind
        What kind of artifact it is.
    name
        What is wrong with it.
    craft
        Spoils the intact project in the working directory.
    open
        Opens it there.
    """

    kind: str
    name: str
    craft: Callable[[], object]
    open: Opener


@dataclass(frozen=True)
class Outcome:
    """The verdict; `found` says what was wrong, or how it was refused."""

    kind: str
    name: str
    verdict: str
    found: str

    def document(self) -> dict[str, str]:
        """As JSON holds it."""
        return {"kind": self.kind, "name": self.name, "verdict": self.verdict, "found": self.found}


def judged(case: Case, intact: Path, scratch: Path) -> Outcome:
    """Crafts the artifact in a copy of the intact project, opens it and looks what became of it all."""
    root = scratch / "case"
    shutil.copytree(intact, root / "project", symlinks=True)
    secret = root / SECRET
    secret.parent.mkdir()
    secret.write_text(SECRET_TEXT)
    try:
        with chdir(root / "project"), patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
            case.craft()
            _forget()
            before, peak = _files(root), _peak()
            with _bounded():
                ended = _opened(case.open)
            taken = _peak() - peak
        verdict, found = _verdict(ended, before, _files(root), taken)
        return Outcome(case.kind, case.name, verdict, found)
    finally:
        shutil.rmtree(root)


class _Hanging(BaseException):
    """Raised by the clock; no exception, so that nobody's `except Exception` makes a refusal of it."""


def _opened(opener: Opener) -> Ended:
    try:
        return opener()
    except _Hanging:
        return Ended(1, f"still running after {PATIENCE} seconds")


def _forget() -> None:
    """A case starts with no model in memory."""
    load.MODELS.forget()


def _verdict(ended: Ended, before: Mapping[str, str], after: Mapping[str, str], taken: int) -> tuple[str, str]:
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if ended.code not in (0, 2) or "Traceback" in ended.said:
        return TRACEBACK, ended.said[-600:]
    if ended.code == 0:
        return ACCEPTED, "opened as if nothing were wrong"
    if changed:
        return ACCEPTED, f"refused, but left behind: {', '.join(changed[:5])}"
    if taken > MEMORY:
        return ACCEPTED, f"refused, but only after {taken / 2**20:,.0f} MB had been taken"
    if SECRET_TEXT in ended.said:
        return ACCEPTED, "refused, but the message shows what stands outside"
    if not is_clear(Said(ended.code, ended.said)):
        return TRACEBACK, f"an error that does not say where, expected, found and next: {ended.said[-600:]}"
    return REFUSED, " ".join(ended.said.split())[:300]


def _files(root: Path) -> dict[str, str]:
    """Every file and folder below, with a checksum of the plain files."""
    return {path.relative_to(root).as_posix(): _digest(path) for path in root.rglob("*")}


def _digest(path: Path) -> str:
    plain = path.is_file() and not path.is_symlink()
    return hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _bounded() -> Iterator[None]:
    """Bounds address space and time; for the main thread, in the project's folder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    handler = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(PATIENCE)
    release = Timer(PATIENCE + 1, _let_go, [Path.cwd()])
    release.start()
    try:
        yield
    finally:
        release.cancel()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_long(_signal: int, _frame: Any) -> None:
    raise _Hanging


def _let_go(root: Path) -> None:
    """Ends whoever reads from a pipe, also where native code does it and hears no signal."""
    for path in root.rglob("*"):
        if path.is_fifo():
            with suppress(OSError):  # nobody reads
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
