"""Two commands at once on one place."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

from benchmarks.commands import verdict
from benchmarks.commands.arena import OLDER, Arena, Trial
from benchmarks.commands.calls import Call
from benchmarks.commands.trees import Reference, tree
from benchmarks.faults.disk import waits
from benchmarks.faults.starting import Ended
from benchmarks.faults.tally import Fault

KIND = "two commands at once"
HOLD = 3.0
"""Seconds that the first is held where the second waits for it."""
FIGURES = "data/extract.json"
"""Says how much of the work was there already."""


def both(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """A second command is given while the first is held at a file operation: the same one, or any other, since most
    read or write what another writes. Each ends well or is refused, and one at least ends well.
    """
    if not call.stands:
        return None
    first = arena.reference(call, OLDER)
    rival = random.choice([one for one in arena.calls if one.stands]) if number % 2 else call
    moment = random.randint(1, max(1, first.moments))
    with arena.trial(KIND, call, OLDER) as trial:
        hook = trial.hook(pauses=(moment,))
        running, gate = trial.begin(hook), Path(f"{hook.gate}.{moment}")
        if not waits(running, gate, trial.patience):
            return trial.hung(running)
        other = trial.begin(arguments=rival.arguments)
        while_held = other.ended_within(HOLD)
        gate.unlink()
        ends = [running.wait(trial.patience), other.wait(trial.patience)]
        what = f"{rival.name} while it was held at file operation {moment} of {first.moments}"
        return _judged(trial, what + ("" if while_held else ", and on"), ends, arena.reference(rival, OLDER))


def _judged(trial: Trial, what: str, ends: list[Ended], rival: Reference) -> Fault:
    own = trial.reference
    free = own.free | rival.free | {FIGURES}
    union = dataclasses.replace(own, varying=own.varying | rival.varying, free=free)
    where = f"{trial.call.name}: {what}"
    for ended in ends:
        if bad := verdict.of_end(ended):
            return Fault(KIND, where, *bad)
    if bad := verdict.of_files(union, tree(trial.project), min(ends, key=lambda end: end.code)):
        return Fault(KIND, where, *bad)
    if all(ended.code for ended in ends):
        return Fault(KIND, where, verdict.LOST, f"neither ended well: {verdict.tail(ends[0].said)}")
    if any(ended.code for ended in ends):
        if bad := verdict.of_rerun(union, tree(trial.project), trial.run()):
            return Fault(KIND, where, *bad)
        return Fault(KIND, where, verdict.REFUSED)
    return Fault(KIND, where, verdict.FINE)
