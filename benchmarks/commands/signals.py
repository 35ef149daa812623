"""SIGTERM, SIGHUP and SIGINT at any moment of a command."""

from __future__ import annotations

import signal
from random import Random

from benchmarks.commands.arena import Arena
from benchmarks.commands.calls import Call
from benchmarks.faults.tally import Fault

KIND = "told to end by a signal"


def told(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """The command sends itself the signal at one of its file operations, or some time after it."""
    start = arena.some_start(call, random)
    sent = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[number % 3]
    moment = random.randint(1, max(1, arena.reference(call, start).moments))
    delay = random.choice([0.0, random.uniform(0.0, 0.5)])
    with arena.trial(KIND, call, start) as trial:
        ended = trial.run(trial.hook(kill_at=moment, signal=int(sent), delay=delay))
        when = f"file operation {moment}" + (f" and {delay:.2f} s" if delay else "")
        return trial.judged(f"{sent.name} at {when}, {start}", ended, sent=int(sent))
