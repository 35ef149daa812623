"""Fills the table of every command in `docs/faults.md` from `benchmarks/results/commands.json`:
`python -m docs.make_faults`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.markdown import table
from ilse.core.files.atomic import write_text

OUT = Path(__file__).with_name("faults.md")
RESULTS = OUT.parent.parent / "benchmarks" / "results" / "commands.json"
START, END = "<!-- every command: the table -->\n", "<!-- every command: its end -->\n"
BAD = ("lost", "accepted", "traceback", "abort", "secret", "hang", "unclear")


def document() -> str:
    """The whole page, with the table of the results that there are."""
    page = OUT.read_text(encoding="utf-8")
    head, rest = page.split(START)
    _, tail = rest.split(END)
    filled = _filled(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else "\nNot run yet.\n\n"
    return f"{head}{START}{filled}{END}{tail}"


def _filled(found: dict[str, Any]) -> str:
    lead = f"One run of `--seed {found['seed']}`, {found['seconds'] / 60:.0f} minutes on two cores.\n"
    names = ("injected", "fine", "refused", *BAD)
    rows = [[kind, *(str(counts[name]) for name in names)] for kind, counts in found["by_kind"].items()]
    rows.append(["**all**", *(f"**{found[name]}**" for name in names)])
    lines = [f"- {one['verdict']}: {one['kind']}, {one['what']!r}\n" for one in found["failures"]]
    skipped = [f"- not tried here: {kind}, since {why}\n" for kind, why in found["not_injected"].items()]
    below = "".join(["\n", *lines, *skipped]) if lines or skipped else ""
    return f"\n{lead}\n{table(['kind', *names], rows)}{below}\n"


if __name__ == "__main__":
    write_text(OUT, document())
