"""Describes a workload and its costs in plain words: counts, bytes, durations, and the table of machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ilse.core.errors import UserError
from pipeline.forecast.costs import VALUE_BYTES, KeptTokens, Workload, disk_bytes
from pipeline.forecast.machines import MACHINES, PRICES, Machine, dollars, fits, need, times

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_NUMBER = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([kmbgt]?)", re.IGNORECASE)


RANKS, KINDS = (64, 128), ("int4", "int8", "float16")
"""Ranks and storage types of token states whose sizes are quoted."""


def parse_count(text: str, name: str) -> int:
    """A whole number as people write it: 7e9, 7B, 100M, 100_000, 1.5k. Raises `UserError` for anything else."""
    match = _NUMBER.fullmatch(text.strip())
    value = float(re.sub("[_,]", "", match[1])) * _SUFFIXES[match[2].lower()] if match else 0
    if not match or value < 1 or value != round(value):
        raise UserError(
            name,
            expected="a whole number of at least 1, such as 100M, 100e6 or 100000000",
            found=repr(text),
            next_step=f"correct {name}",
        )
    return round(value)


def duration(seconds: int | float) -> str:
    """Two digits with the unit that fits: 34 s, 7.6 min, 5.2 h, 3.1 d, 6.5 years."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600), (63_072_000, "d", 86_400)):
        if seconds < limit:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds / 31_536_000)} years"


def size(count: int | float) -> str:
    """Bytes with the unit that fits, thousand by thousand: 82.5 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def _two_digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def storage_line(work: Workload) -> str:
    """The cache's size by storage type, the chosen one first."""
    chosen = work.storage_type
    sizes = ", ".join(f"{kind} {size(disk_bytes(work, kind))}" for kind in _kinds(work) if kind != chosen)
    states = ", with the states of every token" if work.token_states else ""
    if work.kept_tokens is not None:
        states += f" ({_in_words(work.kept_tokens, work)})"
    return f"{size(disk_bytes(work))} as {chosen}{states}; {sizes}"


def token_choices(work: Workload) -> dict[str, int]:
    """Bytes that token states add to the cache, by what `extract.token_states` may say: the one that is set first."""
    pooled = disk_bytes(replace(work, token_states=False, kept_tokens=None))
    full = [KeptTokens(work.layers, work.dim, kind) for kind in ("float16", "int8")]
    ranks = [KeptTokens(work.layers, rank, kind, True) for rank in RANKS if rank < work.dim for kind in KINDS]
    choices = {_in_words(kept, work): replace(work, token_states=True, kept_tokens=kept) for kept in [*full, *ranks]}
    if work.token_states:
        kept = work.kept_tokens or KeptTokens(work.layers, work.dim, work.storage_type)
        choices = {_in_words(kept, work): work, **choices}
    return {name: disk_bytes(choice) - pooled for name, choice in choices.items()}


def token_line(work: Workload) -> str:
    """What token states take on disk, by choice."""
    each = [f"{name}: {size(count)}" for name, count in token_choices(work).items()]
    return f"{'' if work.token_states else 'not kept; '}{'; '.join(each)}"


def _in_words(kept: KeptTokens, work: Workload) -> str:
    layers = "" if kept.layers == work.layers else f"{kept.layers} of {work.layers} layers, "
    return f"{layers}{f'rank {kept.width}' if kept.based else 'whole'} {kept.storage_type}"


def workload_document(work: Workload) -> dict[str, Any]:
    """The workload and its size on disk, as plain JSON."""
    return {
        "texts": work.texts,
        "tokens": work.tokens,
        "shards": work.shards,
        "layers": work.layers,
        "dim": work.dim,
        "parameters": work.parameters,
        "storage_type": work.storage_type,
        "disk_bytes": disk_bytes(work),
        "disk_bytes_by_type": {kind: disk_bytes(work, kind) for kind in _kinds(work)},
        "token_bytes_by_choice": token_choices(work),
    }


def _kinds(work: Workload) -> list[str]:
    """Storage types that can hold it: token states that have no type of their own are not kept as int8."""
    return [kind for kind in VALUE_BYTES if not (work.token_states and not work.kept_tokens and kind == "int8")]


HEADINGS: tuple[str, ...] = (
    *("machine", "time", "bound by", "compute", "writing", "tokenising", "cluster", "loading", "finishing"),
    *("memory", "dollars"),
)


def machine_row(work: Workload, machine: Machine) -> tuple[str, ...]:
    """One machine's line of the table, in the order of `HEADINGS`."""
    parts = times(work, machine)
    whole = fits(work, machine)
    return (
        machine.name,
        duration(parts.seconds) if whole else "-",
        parts.binding if whole else "memory",
        duration(parts.compute),
        duration(parts.write),
        duration(parts.tokenise),
        duration(max(parts.requests, parts.schedule)),
        duration(parts.load),
        duration(parts.finish),
        f"{size(need(work, machine))} of {size(machine.memory)}",
        f"{dollars(work, machine):,.2f}" if whole else "-",
    )


def machine_table(work: Workload) -> list[str]:
    """Every machine's line, aligned, with what the table assumes below it."""
    return [
        *aligned([HEADINGS, *(machine_row(work, machine) for machine in MACHINES)]),
        "",
        "Computed, not measured. time: loading, finishing, and the slowest of the others, which overlap.",
        "cluster: objects put and tasks scheduled. memory: of one device, which holds the whole model.",
        f"Peaks are data-sheet figures, utilisation 0.4 to 0.5 and dollars per hour are assumptions ({PRICES});",
        "pipeline/forecast/machines.py states each, docs/scaling.md discusses them.",
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in pairs).rstrip()
        for pairs in ([*enumerate(zip(row, widths, strict=True))] for row in rows)
    ]
