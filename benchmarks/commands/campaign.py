"""Which faults, how many of each kind over every command, and two lanes to run them in."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.commands import foreign, full_disk, links, marks, odd_paths, planted, signals, together
from benchmarks.commands.arena import Arena
from benchmarks.commands.calls import Call
from benchmarks.commands.verdict import BAD
from benchmarks.faults.disk import why_no_small_disk
from benchmarks.faults.tally import Fault
from tests.predict.hub import listening

Injector = Callable[[Arena, Call, Random, int], Fault | None]
LANES = 2
MARKED = 4
"""Projects whose labels and texts hold markup and control characters."""


@dataclass(frozen=True)
class Kind:
    """A way of disturbing a command."""

    name: str
    inject: Injector
    rounds: int
    """Times that every call meets it."""
    hindrance: str = ""
    """Why it can't be had on this machine."""


def kinds() -> tuple[Kind, ...]:
    """Every kind."""
    return (
        Kind(full_disk.KIND, full_disk.full, 3, why_no_small_disk()),
        Kind(signals.KIND, signals.told, 3),
        Kind(foreign.KIND, foreign.there, 3),
        Kind(links.KIND, links.there, 3),
        Kind(odd_paths.KIND, odd_paths.named, 3),
        Kind(together.KIND, together.both, 2),
        Kind(planted.KIND, planted.hidden, 3),
        Kind(marks.KIND, marks.named, 1),
    )


def campaign(
    folder: Path, seed: int, quick: bool, only: str = "", commands: str = ""
) -> tuple[list[Fault], dict[str, str]]:
    """Every kind on every call, or on some; and the kinds that can't be had, with the reason."""
    chosen = [kind for kind in kinds() if only in kind.name]
    with listening() as (_, address):
        arena = Arena(folder, {"HF_ENDPOINT": address}, quick)
        try:
            with ThreadPoolExecutor(LANES) as lanes:
                waiting = [lanes.submit(_episode, *one) for one in _episodes(arena, chosen, seed, quick, commands)]
                marked = [lanes.submit(_marked, *one) for one in _projects(arena, chosen, seed, quick, commands)]
                faults = [fault for future in waiting if (fault := future.result())]
                faults += [fault for future in marked for fault in future.result()]
        finally:
            arena.end()
    return faults, {kind.name: kind.hindrance for kind in chosen if kind.hindrance}


Episode = tuple[Arena, Kind, Call, Random, int]


def _episodes(arena: Arena, chosen: list[Kind], seed: int, quick: bool, commands: str) -> Iterator[Episode]:
    """Round by round; the quick campaign plays every kind on one call, another for each kind."""
    for number in range(1 if quick else max((kind.rounds for kind in chosen), default=0)):
        episodes = []
        for place, kind in enumerate(kind for kind in chosen if number < kind.rounds and not kind.hindrance):
            calls = [call for call in arena.calls if commands in call.name]
            if quick:
                calls = [calls[place % len(calls)]]
            for i, call in enumerate(calls):
                random = Random(f"{seed} {kind.name} {call.name} {number}")
                episodes.append((arena, kind, call, random, number + i))
        Random(seed).shuffle(episodes)  # so that whoever looks on sees something of every kind soon
        yield from episodes


def _projects(
    arena: Arena, chosen: list[Kind], seed: int, quick: bool, commands: str
) -> Iterator[tuple[Arena, Random, Sequence[Call]]]:
    """Whole projects that are marked from the data set on."""
    if any(kind.name == marks.KIND for kind in chosen) and not commands:
        for number in range(1 if quick else MARKED):
            yield arena, Random(f"{seed} {marks.KIND} {number}"), arena.calls[: 2 if quick else None]


def _marked(arena: Arena, random: Random, calls: Sequence[Call]) -> list[Fault]:
    started = time.monotonic()
    faults = marks.everywhere(arena, random, calls)
    for fault in faults:
        _say(fault, (time.monotonic() - started) / len(faults))
    return faults


def _episode(arena: Arena, kind: Kind, call: Call, random: Random, number: int) -> Fault | None:
    """Up to three attempts: a run may end before the moment of its fault."""
    started = time.monotonic()
    for _ in range(3):
        if fault := kind.inject(arena, call, random, number):
            _say(fault, time.monotonic() - started)
            return fault
    return None


def _say(fault: Fault, seconds: float) -> None:
    why = f": {fault.why}" if fault.verdict in BAD else ""
    print(f"{fault.verdict:<11}{seconds:5.1f} s  {fault.kind} | {fault.what}{why}", file=sys.__stderr__, flush=True)
