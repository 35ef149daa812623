"""Puts the computed tables into `docs/scaling.md`, whose text is written by hand: `python docs/make_scaling.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ilse.core.files.atomic import write_text
from pipeline.forecast.costs import Workload, disk_bytes, flops
from pipeline.forecast.elsewhere import workload_of
from pipeline.forecast.machines import MACHINES, Machine, dollars, fits, times
from pipeline.forecast.quote import duration, size
from pipeline.forecast.shapes import Shape

OUT = Path(__file__).with_name("scaling.md")
_TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

SMALL = Shape("135M", 134_515_008, 2.0 * 106_168_320, 31, 576, 1536)  # SmolLM2-135M: 30 blocks
MIDDLE = Shape("1.5B", 1_543_714_304, 2.0 * 1_310_195_712, 29, 1536, 8960)  # as Qwen2.5-1.5B: 28 blocks
LARGE = Shape("7B", 6_607_343_616, 2.0 * 6_476_005_376, 33, 4096, 11_008)  # as Llama 2 7B: 32 blocks

WORKLOADS: dict[str, Workload] = {
    "demo: 135M, 2,096 headlines": workload_of(SMALL, 2_096, 8),
    "135M, 1 M texts": workload_of(SMALL, 1_000_000, 128),
    "135M, 100 M texts": workload_of(SMALL, 100_000_000, 128),
    "1.5B, 10 M texts": workload_of(MIDDLE, 10_000_000, 128),
    "7B, 100 M texts": workload_of(LARGE, 100_000_000, 128),
    "7B, 1 M texts, token states": workload_of(LARGE, 1_000_000, 128, token_states=True),
}
SCALES = {
    "two cores": (["2 cores"], ["demo: 135M, 2,096 headlines", "135M, 1 M texts", "1.5B, 10 M texts"]),
    "one GPU": (["L4", "A10G", "A100-80", "H100"], ["135M, 1 M texts", "1.5B, 10 M texts", "7B, 100 M texts"]),
    "one node": (["8 x H100"], list(WORKLOADS)[1:]),
    "64": (["64 x H100"], list(WORKLOADS)[2:]),
    "1000": (["1000 x H100"], list(WORKLOADS)[2:]),
}


def document() -> str:
    """The whole file, with its tables as the code has them now."""
    return _TABLE.sub(lambda match: match[1] + "\n".join(table(match[2])) + "\n" + match[3], OUT.read_text("utf-8"))


def table(name: str) -> list[str]:
    """The rows of one table, as Markdown."""
    if name in TABLES:
        return TABLES[name]()
    machines, workloads = SCALES[name]
    chosen = [machine for machine in MACHINES if machine.name in machines]
    several = len(chosen) > 1
    heading = [*(["machine"] if several else []), "workload", "time", "bound by", "compute", "writing", "tokenising"]
    heading += ["requests", "scheduler", "loading", "finishing", "cache", "dollars"]
    rows = [([machine.name] if several else []) + _cells(work, machine) for work in workloads for machine in chosen]
    return _markdown(heading, rows)


def _cells(work: str, machine: Machine) -> list[str]:
    load, found, whole = WORKLOADS[work], times(WORKLOADS[work], machine), fits(WORKLOADS[work], machine)
    parts = (found.compute, found.write, found.tokenise, found.requests, found.schedule, found.load, found.finish)
    return [
        work,
        f"**{duration(found.seconds)}**" if whole else "does not fit",
        found.binding if whole else "memory",
        *(duration(part) if part else "-" for part in parts),
        size(disk_bytes(load)),
        f"{dollars(load, machine):,.2f}" if whole else "-",
    ]


def _machines() -> list[str]:
    rows = [
        [
            machine.name,
            str(machine.nodes),
            f"{machine.peak / 1e12:g}",
            f"{machine.utilisation:g}",
            f"{machine.memory / 1e9:g}",
            f"{machine.disk_rate / 1e9:g}",
            f"{machine.network_rate / 1e9:g}",
            str(machine.cores),
            f"{machine.dollars_per_hour:,.2f}",
        ]
        for machine in MACHINES
    ]
    heading = ["machine", "nodes", "TFLOP/s per device", "utilisation", "GB per device", "disk, GB/s per node"]
    return _markdown([*heading, "network, GB/s per node", "cores per node", "dollars per hour"], rows)


def _workloads() -> list[str]:
    rows = [
        [name, f"{work.texts:,}", f"{work.tokens:,}", f"{flops(work):.2g}", f"{work.shards:,}", size(disk_bytes(work))]
        for name, work in WORKLOADS.items()
    ]
    return _markdown(["workload", "texts", "tokens", "operations", "shards", "cache, float16"], rows)


def _shard_rows() -> list[str]:
    thousand, rows = MACHINES[-1], []
    for shard_rows in (64, 256, 1024, 4096):
        cells = [f"{shard_rows:,}"]
        for shape in (SMALL, LARGE):
            work = workload_of(shape, 100_000_000, 128, shard_rows=shard_rows)
            found, shard = times(work, thousand), disk_bytes(work) / work.shards
            cells += [size(shard), duration(max(found.requests, found.schedule)), duration(found.finish)]
        rows.append(cells)
    names = [f"{shape.name}: {what}" for shape in (SMALL, LARGE) for what in ("a shard", "cluster", "finishing")]
    return _markdown(["shard_rows", *names], rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "machines": _machines,
    "workloads": _workloads,
    "shard rows": _shard_rows,
}


def _markdown(heading: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (heading, ["---"] * len(heading), *rows)]


if __name__ == "__main__":
    write_text(OUT, document())
