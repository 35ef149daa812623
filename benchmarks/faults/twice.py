"""Two extractors at once: a second one starts while the first is held at a file operation, or at the same time."""

from __future__ import annotations

import socket
from pathlib import Path
from random import Random

from benchmarks.faults.disk import waits
from benchmarks.faults.kills import STARTS
from benchmarks.faults.references import References
from benchmarks.faults.starting import Ended
from benchmarks.faults.tally import RESUMED, UNCLEAR, Fault
from benchmarks.faults.work import Work, ended_badly

KIND = "two extractors at once"
PAUSES = 3
"""Second extractors against one first."""


def held(references: References, random: Random, count: int) -> list[Fault]:
    """The second must be refused with the first one's host and process, and the first must not notice."""
    stage = references.stage
    work = references.work(KIND, references.stage.some_variant(random), random.choice(STARTS))
    pauses = sorted(random.sample(range(5, references.moments(work.call.variant)), min(count, PAUSES)))
    hook = work.hook(pauses=tuple(pauses))
    first = stage.start(work.call, hook)
    for moment in pauses:
        gate = Path(f"{hook.gate}.{moment}")
        if not waits(first, gate):
            break
        second, mark = stage.run(work.call), work.mark()
        gate.unlink()
        work.hit(f"first held at file operation {moment}", second, mark=mark)
        names(work, second, first.process.pid)
    return _ended(references, work, first.wait())


def together(references: References, random: Random, count: int) -> list[Fault]:
    """Both start at the same moment: one may be refused, and one has to get there."""
    faults: list[Fault] = []
    for _ in range(count):
        work = references.work(KIND, references.stage.some_variant(random), random.choice(STARTS))
        both = [references.stage.start(work.call, work.hook()) for _ in range(2)]
        ended = sorted((running.wait() for running in both), key=lambda end: end.code)
        work.hit("both started together", ended[1])
        faults += _ended(references, work, ended[0])
    return faults


def names(work: Work, second: Ended, pid: int) -> None:
    """Counts a refusal that does not say who holds the lock as unclear."""
    fault = work.injected[-1]
    if fault.verdict == RESUMED and not (socket.gethostname() in second.said and f"{pid}" in second.said):
        fault.verdict, fault.why = UNCLEAR, f"the refusal does not name process {pid}: {ended_badly(second)}"


def _ended(references: References, work: Work, first: Ended) -> list[Fault]:
    if first.code != 0:
        work.broken = f"the first was disturbed: {ended_badly(first)}"
    work.look()
    return work.judged(references.stage.here(work.call.arguments()))
