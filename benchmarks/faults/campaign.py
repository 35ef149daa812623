"""Which faults, how many of each kind, and two lanes to run them in."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.faults import cluster, damage, disk, exchange, kills, twice
from benchmarks.faults.bucket import Bucket, Server, why_no_server
from benchmarks.faults.references import References
from benchmarks.faults.stage import Stage
from benchmarks.faults.tally import Fault

Injector = Callable[[Random, int], list[Fault]]
LANES = 3
"""One more than cores that it was made for: some wait for a server."""


@dataclass(frozen=True)
class Kind:
    """A way of injecting faults."""

    name: str
    inject: Injector
    of_200: int
    """Faults among 200."""
    at_once: int = 1
    """Faults in one episode: on the same work, one after the other."""
    quick: int = 1
    """Faults of the quick campaign."""
    hindrance: str = ""
    """Why it can't be had on this machine."""


def kinds(references: References, server: Server | None, patience: bool) -> list[Kind]:
    """Every kind, the long ones first."""
    bucket = Bucket(references, server, patience)

    def on(function: Callable[[References, Random, int], list[Fault]]) -> Injector:
        return lambda random, count: function(references, random, count)

    def damaged(function: Callable[..., list[Fault]], ways: tuple[str, ...]) -> Injector:
        return lambda random, count: function(references, random, count, ways)

    return [
        Kind("kill scheduler", on(cluster.scheduler), 8, 4),
        Kind("kill worker", on(cluster.workers), 9, cluster.WORKER_KILLS, quick=2),
        Kind("kill local", on(kills.local), 9, 3),
        Kind("s3 lasting", bucket.lasting, 9, 3, hindrance=why_no_server()),
        Kind("s3 passing", bucket.passing, 16, 8, quick=3, hindrance=why_no_server()),
        Kind("kill serial", on(kills.serial), 24, 4, quick=2),
        Kind("kill s3", bucket.killed, 8, 4, hindrance=why_no_server()),
        Kind("full disk", on(disk.full), 12, 6, hindrance=disk.why_no_small_disk()),
        Kind("permission", on(disk.forbidden), 12, 6, hindrance=disk.why_no_permissions()),
        Kind("two held", on(twice.held), 9, twice.PAUSES),
        Kind("two together", on(twice.together), 3, 1, quick=0),
        Kind("two s3", bucket.twice, 3, 1, quick=0, hindrance=why_no_server()),
        Kind("flips finished", damaged(damage.finished, damage.FLIP), 36, 9, quick=4),
        Kind("flips s3", bucket.flipped, 8, 4, hindrance=why_no_server()),
        Kind("s3 read", bucket.read, 6, 3, hindrance=why_no_server()),
        Kind("flips unfinished", damaged(damage.unfinished, damage.FLIP), 20, 10, quick=2),
        Kind("cuts finished", damaged(damage.finished, damage.CUT), 12, 6),
        Kind("cuts unfinished", damaged(damage.unfinished, damage.CUT), 12, 6),
        Kind("exchange finished", on(exchange.finished), 36, 9, quick=4),
        Kind("exchange donor", on(exchange.donor), 24, 6, quick=2),
        Kind("exchange unfinished", on(exchange.unfinished), 20, 10, quick=2),
        Kind("exchange s3", partial(exchange.remote, bucket), 12, 6, hindrance=why_no_server()),
    ]


def campaign(folder: Path, seed: int, faults: int, only: str) -> tuple[list[Fault], dict[str, str]]:
    """At least `faults` faults, or some of every kind for 0; and the kinds that can't be had, with the reason."""
    server = None if why_no_server() else Server()
    stage = Stage(folder, quick=not faults)
    try:
        chosen = [kind for kind in kinds(References(stage), server, bool(faults)) if only in kind.name]
        skipped = {kind.name: kind.hindrance for kind in chosen if kind.hindrance}
        with ThreadPoolExecutor(LANES) as lanes:
            waiting = [lanes.submit(_episode, *episode) for episode in _episodes(chosen, seed, faults)]
            return [fault for future in waiting for fault in future.result()], skipped
    finally:
        stage.end()
        if server:
            server.end()


def _episodes(chosen: list[Kind], seed: int, faults: int) -> Iterator[tuple[Kind, Random, int]]:
    for kind in chosen:
        count = 0 if kind.hindrance else -(-kind.of_200 * faults // 200) if faults else kind.quick
        for number, start in enumerate(range(0, count, kind.at_once)):
            yield kind, Random(f"{seed} {kind.name} {number}"), min(kind.at_once, count - start)


def _episode(kind: Kind, random: Random, count: int) -> list[Fault]:
    """Goes on until so many faults have come to pass: a run may end before the moment of its fault."""
    found: list[Fault] = []
    started = time.monotonic()
    for _ in range(3):
        if len(found) < count:
            found += kind.inject(random, count - len(found))
    lines = [f"{kind.name}: {len(found)} faults, {time.monotonic() - started:.1f} s"]
    lines += [f"  {fault.verdict:<26}{fault.what}" for fault in found]
    print("\n".join(lines), file=sys.__stderr__, flush=True)  # `sys.stderr` may be that of a command in this process
    return found
