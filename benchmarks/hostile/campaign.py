"""All cases, the project that they spoil, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.hostile import archives, bombs, caches, given, heads, models, results
from benchmarks.hostile.judge import ACCEPTED, REFUSED, TRACEBACK, Case, Outcome, judged
from benchmarks.hostile.project import make_project


def all_cases() -> list[Case]:
    """Every crafted artifact."""
    return [case for module in (heads, caches, models, archives, given, bombs, results) for case in module.cases()]


def campaign(folder: Path, quick: bool = False, only: str = "") -> list[Outcome]:
    """Every case against a project made in `folder`."""
    intact = folder / "intact"
    intact.mkdir()
    make_project(intact)
    chosen = [case for case in all_cases() if only in case.kind or only in case.name]
    return [judged(case, intact, folder) for case in chosen[:: 2 if quick else 1]]


def document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The counts, and every case."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return {
        "tried": len(outcomes),
        "accepted": counts[ACCEPTED],
        "tracebacks": counts[TRACEBACK],
        "kinds": dict(Counter(outcome.kind for outcome in outcomes)),
        "cases": [outcome.document() for outcome in outcomes],
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each kind, and one for each case that was not refused."""
    lines = ["| kind | tried | refused |", "|---|---|---|"]
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        verdicts = [outcome.verdict for outcome in outcomes if outcome.kind == kind]
        lines.append(f"| {kind} | {len(verdicts)} | {verdicts.count(REFUSED)} |")
    lines += [f"{o.verdict}: {o.kind}, {o.name}: {o.found}" for o in outcomes if o.verdict != REFUSED]
    return "\n".join(lines)
