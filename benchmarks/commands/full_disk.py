"""A disk that is full from one moment of a command on, and an output that takes nothing."""

from __future__ import annotations

from pathlib import Path
from random import Random

from benchmarks.commands.arena import Arena
from benchmarks.commands.calls import Call
from benchmarks.faults.disk import filled, small_disk, waits
from benchmarks.faults.tally import Fault

KIND = "disk that fills up"
MEGABYTES = 24
"""Room for the project and all its exports."""


def full(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """Another program fills the disk at a file operation of the command; afterwards there is room again."""
    start = arena.some_start(call, random)
    moments = arena.reference(call, start).moments
    moment, pages = random.randint(1, max(1, moments)), random.choice([0, 0, 1, 4, 16])
    folder = arena.folder()
    with small_disk(folder, MEGABYTES) as disk, arena.trial(KIND, call, start, on=disk) as trial:
        (disk / "tmp").mkdir()
        environment = {"TMPDIR": str(disk / "tmp")} if random.random() < 0.5 else {}
        hook = trial.hook(pauses=(moment,))
        running = trial.begin(hook, environment)
        gate = Path(f"{hook.gate}.{moment}")
        if not waits(running, gate, trial.patience):
            return trial.hung(running)
        filler = filled(disk, pages)
        gate.unlink()
        ended = running.wait(trial.patience)
        what = f"{pages} pages left at file operation {moment} of {moments}, {start}"
        return trial.judged(what + (", with the temporary folder" if environment else ""), ended, filler.unlink)
