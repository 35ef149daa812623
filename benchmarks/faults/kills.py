"""`kill -9` of the extractor: at a chosen file operation of a serial run, at any time of one with local workers."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from random import Random

from benchmarks.faults.references import References
from benchmarks.faults.stage import SHARDS
from benchmarks.faults.starting import Ended, Running
from benchmarks.faults.tally import Fault
from benchmarks.faults.work import Work, chain

STARTS = ("nothing", "nothing", "older", "damaged")


def serial(references: References, random: Random, count: int) -> list[Fault]:
    """The extractor kills itself before a random file operation, again and again on the same work."""
    start = random.choice(STARTS)
    work = references.work("kill -9 of the extractor, serial", references.stage.some_variant(random), start)
    stage = references.stage

    def faulty(work: Work) -> Ended:
        left = references.moments() * (1 - len(work.intact()) / (2 * SHARDS))
        moment = random.randint(1, int(left))
        ended = stage.run(work.call, work.hook(kill_at=moment))
        return noted(work, f"before file operation {moment}, work that began with {start}", ended)

    return chain(work, faulty, lambda call: stage.here(call.arguments()), count)


def local(references: References, random: Random, count: int) -> list[Fault]:
    """The extractor of a run with local Dask workers is killed, alone or with them."""
    cluster = {"kind": "local", "workers": 1 if references.stage.quick else 2}
    work = references.work("kill -9 of the extractor, local workers", start=random.choice(STARTS), cluster=cluster)

    def faulty(work: Work) -> Ended:
        records = random.randint(0, SHARDS - len(work.intact()))
        running = references.stage.start(work.call, work.hook(slow=0.03))
        what = "with its workers" if random.random() < 0.3 else "alone"
        wait_for(work, running, len(work.records()) + records, random.uniform(0, 6) if records == 0 else 0)
        time.sleep(random.uniform(0, 0.05))
        with suppress(ProcessLookupError):
            (os.killpg if what == "with its workers" else os.kill)(running.process.pid, signal.SIGKILL)
        return noted(work, f"{what}, after {records} more shards", running.wait())

    faults = chain(work, faulty, references.stage.run, count)
    return faults


def noted(work: Work, what: str, ended: Ended) -> Ended:
    """Notes the kill, if it came in time."""
    if ended.code == -signal.SIGKILL:
        work.hit(what, ended, killed=True)
    elif ended.code != 0:
        work.broken = f"a rerun that nobody killed ended with {ended.code}: {ended.said[-1500:]}"
    return ended


def wait_for(work: Work, running: Running, records: int, at_least: float = 0) -> None:
    """Waits until so many records have been put in place, and for some seconds; or until the run ends."""
    earliest, latest = time.monotonic() + at_least, time.monotonic() + 120
    while running.process.poll() is None and time.monotonic() < latest:
        if len(work.records()) >= records and time.monotonic() >= earliest:
            return
        time.sleep(0.005)
