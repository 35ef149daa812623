"""Markup and control characters in labels, texts and names: shown escaped, and never obeyed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

from benchmarks.commands import options, verdict
from benchmarks.commands.arena import FRESH, OLDER, Arena
from benchmarks.commands.calls import Call
from benchmarks.commands.terminal import Terminal
from benchmarks.commands.verdict import ACCEPTED, names
from benchmarks.faults.starting import Ended
from benchmarks.faults.tally import Fault
from benchmarks.hostile.project import lay_out

KIND = "markup and control characters"
RED, BELL, TITLE, BACKWARDS = "\x1b[31mred\x1b[0m", "bell\x07", "\x1b]0;title\x07", "\u202egnp.exe"
LABELS = (
    "<script>alert(1)</script>",
    "<b>bold",
    "</svg>",
    "a & b <",
    "]]><!--",
    "\"'><img src=x onerror=alert(1)>",
    '=HYPERLINK("http://127.0.0.1:9")',
    "@SUM(1)",
    "{{7*7}} ${x} %s",
    "$\\frac{1}{2}$",
    "| a | b |\n# head",
    "C1 \x9b31m",
    RED,
    BELL,
    TITLE,
    BACKWARDS,
    "a\rb",
    "\u2028line",
)
_RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ACTIVE = re.compile(rb"<script>alert|<img src=x|</svg>(?=[^<]*</t)")


def everywhere(arena: Arena, random: Random, calls: Sequence[Call]) -> list[Fault]:
    """The commands in turn, each on a terminal, on a project whose labels and texts hold them."""
    project, faults = arena.folder() / "project", []
    project.mkdir()
    labels, more = random.sample(LABELS, 2), " " + " ".join(random.sample([LABELS[0], LABELS[5], RED, BACKWARDS], 2))
    lay_out(project, labels, more, tokens=True)
    for call in calls:
        if not call.builds:
            continue
        screen = Terminal()
        ended = screen.wait(arena.begin(call.arguments, project, said=screen.path), 10 * verdict.PATIENCE)
        bad = verdict.of_end(ended) or _raw(ended) or _active(project)
        found = bad or (verdict.REFUSED if ended.code else verdict.FINE, verdict.tail(ended.said, 160))
        faults.append(Fault(KIND, f"{call.name}: labels {labels!r}", *found))
    return faults


def named(arena: Arena, call: Call, random: Random, number: int) -> Fault | None:
    """A parameter of the command holds them: a name that it may have to show."""
    told = options.told(call)
    if not told:
        return None
    param, name = (
        random.choice(told),
        "a" + random.choice([RED, BELL, TITLE, BACKWARDS, "<script>alert(1)<", "\x9b31m"]),
    )
    with arena.trial(KIND, call, OLDER if call.stands else FRESH) as trial:
        ended = trial.run(arguments=options.with_value(call, param, name))
        what = f"{options.name_of(param)} {name!r}"
        if bad := verdict.of_end(ended) or _raw(ended) or _active(trial.project):
            return Fault(KIND, f"{call.name}: {what}", *bad)
        return trial.judged(what, ended, files=False)


def _raw(ended: Ended) -> tuple[str, str] | None:
    found = _RAW.search(ended.said.replace("\x1b[A", ""))  # with which a bar goes up a line
    return (
        (ACCEPTED, f"shown as it is: {ended.said[max(0, found.start() - 60) : found.end() + 20]!r}") if found else None
    )


def _active(project: Path) -> tuple[str, str] | None:
    pages = [path for ending in ("html", "svg") for path in project.rglob(f"*.{ending}") if path.is_file()]
    active = sorted(path.name for path in pages if _ACTIVE.search(path.read_bytes()))
    return (ACCEPTED, f"markup as it is in {names(active)}") if active else None
