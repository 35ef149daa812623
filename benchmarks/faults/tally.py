"""What became of each fault, and the counts of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SURVIVED = "survived"
"""The run finished, and the cache equals the reference byte for byte."""
RESUMED = "clear_error_then_resumed"
"""An error that names place and next step, exit code 2, and a rerun that got there. A process that was killed has no
error of its own: its rerun got there."""
LOST = "lost"
"""Finished work was computed again, or the rerun did not get there."""
WRONG = "silently_wrong"
"""A byte or a value differs, and nothing said so."""
UNCLEAR = "unclear_error"
"""A traceback, another exit code, or an error without a next step. The rerun got there."""
VERDICTS = (SURVIVED, RESUMED, LOST, WRONG, UNCLEAR)
FAILURES = (LOST, WRONG, UNCLEAR)


@dataclass(frozen=True)
class Fault:
    """One fault and its verdict."""

    kind: str
    what: str
    verdict: str
    why: str = ""


def document(
    faults: Iterable[Fault], verdicts: Sequence[str] = VERDICTS, failing: Sequence[str] = FAILURES
) -> dict[str, Any]:
    """Counts in all and by kind, and every failure by name."""
    faults = list(faults)
    by_kind = {kind: _counts(_of(kind, faults), verdicts) for kind in _kinds(faults)}
    failures = [vars(fault) for fault in faults if fault.verdict in failing]
    return {**_counts(faults, verdicts), "by_kind": by_kind, "failures": failures}


def table(faults: Iterable[Fault], verdicts: Sequence[str] = VERDICTS) -> str:
    """The counts by kind, in Markdown."""
    faults = list(faults)
    head = ["kind", "injected", *(verdict.replace("error_", "error, ").replace("_", " ") for verdict in verdicts)]
    rows = [[kind, *map(str, _counts(_of(kind, faults), verdicts).values())] for kind in _kinds(faults)]
    rows.append(["**all**", *(f"**{count}**" for count in _counts(faults, verdicts).values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] + ["---:"] * (len(head) - 1), *rows])


def _of(kind: str, faults: Iterable[Fault]) -> Iterator[Fault]:
    return (fault for fault in faults if fault.kind == kind)


def _counts(faults: Iterable[Fault], verdicts: Sequence[str]) -> dict[str, int]:
    found = Counter(fault.verdict for fault in faults)
    return {"injected": found.total(), **{verdict: found[verdict] for verdict in verdicts}}


def _kinds(faults: Iterable[Fault]) -> list[str]:
    return list(dict.fromkeys(sorted(fault.kind for fault in faults)))
