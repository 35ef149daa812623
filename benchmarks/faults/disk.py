"""A disk that fills up, and a folder that may no longer be written, at random file operations of the extractor."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from benchmarks.faults.kills import STARTS
from benchmarks.faults.references import References
from benchmarks.faults.stage import SHARDS
from benchmarks.faults.starting import PATIENCE, Ended, Running
from benchmarks.faults.tally import Fault
from benchmarks.faults.work import Work, chain, ended_badly

BOUND_BY_PERMISSIONS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"]
"""Root may write anywhere; without these two capabilities permission bits bind it as they bind everybody."""
PAGE = 4096

Inject = Callable[[Work], tuple[str, Callable[[], None]]]
"""Injects the fault; returns what it did, and what undoes it."""


def why_no_small_disk() -> str:
    """Why no small disk can be had here; empty where it can."""
    return "" if os.geteuid() == 0 and shutil.which("mount") else "mounting a small tmpfs needs root"


def why_no_permissions() -> str:
    """Why permission bits can't be made to count here; empty where they can."""
    bound = os.geteuid() != 0 or shutil.which("setpriv")
    return "" if bound else "root without 'setpriv' (util-linux) writes whatever the permissions"


def full(references: References, random: Random, count: int) -> list[Fault]:
    """Another program fills the disk, but for some pages, while the extractor works; later there is room again."""
    with small_disk(references.stage.folder(), 8) as folder:
        work = references.work(
            "disk that fills up", references.stage.some_variant(random), random.choice(STARTS), folder
        )
        return _hit_at_random_moments(references, random, count, work, lambda work: _fill(work, random), [])


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of so many megabytes at the folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def forbidden(references: References, random: Random, count: int) -> list[Fault]:
    """The permission to write into some of the work's folders, or to enter them, is taken away and given back."""
    work = references.work("write permission removed", references.stage.some_variant(random), random.choice(STARTS))
    before = BOUND_BY_PERMISSIONS if os.geteuid() == 0 else []
    return _hit_at_random_moments(references, random, count, work, lambda work: _forbid(work, random), before)


def _fill(work: Work, random: Random) -> tuple[str, Callable[[], None]]:
    pages = random.choice([0, 0, 1, 4, 16])
    return f"{pages} pages left", filled(work.call.folder, pages).unlink


def filled(disk: Path, pages: int) -> Path:
    """Fills the disk but for so many pages, and returns the file that does."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(PAGE)):
            pass
    os.truncate(filler, max(0, filler.stat().st_size - pages * PAGE))
    return filler


def _forbid(work: Work, random: Random) -> tuple[str, Callable[[], None]]:
    patterns = random.choice([("",), ("scratch",), ("scratch/*-*",), ("scratch/*-*/*", "scratch/*-*/cache.zarr/**/c")])
    above, name = work.call.folder.parent, work.call.folder.name
    places = sorted({path for pattern in patterns for path in above.glob(f"{name}/{pattern}") if path.is_dir()})
    place = random.choice(places or [work.call.folder])
    mode, below = random.choice([0o555, 0o555, 0o000]), random.random() < 0.5
    # Its folders first: one that can't be entered hides those below.
    folders = [*(path for path in sorted(place.rglob("*"), reverse=True) if below and path.is_dir()), place]
    for folder in folders:
        folder.chmod(mode)
    what = f"{place.relative_to(work.call.folder)} set to {mode:03o}{' with all below' if below else ''}"
    return what, lambda: _permit(work.call.folder)


def _permit(folder: Path) -> None:
    """Permits all again, wherever the folders have moved meanwhile."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        if path.is_dir():
            _permit(path)


def _hit_at_random_moments(
    references: References, random: Random, count: int, work: Work, inject: Inject, before: list[str]
) -> list[Fault]:
    stage, moments = references.stage, references.moments(work.call.variant)

    def faulty(work: Work) -> Ended | None:
        moment = random.randint(0, int(moments * (1 - len(work.intact()) / (2 * SHARDS))))
        if moment == 0:
            what, undo = inject(work)
        hook = work.hook(pauses=(moment,) if moment else ())
        running = stage.start(work.call, hook, before)
        gate = Path(f"{hook.gate}.{moment}")
        if moment:
            if not waits(running, gate):
                return _unhit(work, running.wait())
            what, undo = inject(work)
            gate.unlink()
        ended = running.wait()
        undo()
        work.hit(f"{what}, before file operation {moment}", ended)
        return ended

    return chain(work, faulty, lambda call: stage.here(call.arguments()), count)


def _unhit(work: Work, ended: Ended) -> Ended:
    """A run that ended before its fault: as it should, or with an error of its own."""
    if ended.code != 0:
        work.broken = f"a rerun without a fault of its own failed: {ended_badly(ended)}"
    return ended


def waits(running: Running, gate: Path, patience: float = PATIENCE) -> bool:
    """Waits until the process waits at its gate; false where it ended before, or came there in no time."""
    latest = time.monotonic() + patience
    while not gate.exists():
        if running.process.poll() is not None or time.monotonic() > latest:
            return gate.exists()
        time.sleep(0.005)
    return True
