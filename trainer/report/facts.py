"""Any stage's figures, in the shape that the page prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ilse.core.tables import SPLITS
from trainer.report.result_files import Row
from trainer.report.wording import plain, seconds

MOST_ROWS = 200
"""Of one figure, such as the examples of each label."""
UNITS: dict[str, Callable[[Any], tuple[str, str]]] = {
    "bytes": lambda count: ("size", f"{count / 1e6:,.1f}\u00a0MB"),
    "seconds": lambda value: ("time", seconds(value)),
}
"""Figures that are named by their unit: their name and value on the page."""


def split_facts(facts: Mapping[str, Any]) -> Row:
    """Any stage's figures as the page prints them: `plain` pairs, one table `by_split`, and `notes`."""
    shown: Row = {"plain": [], "by_split": [], "notes": []}
    for key, value in facts.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping) and value and set(value) <= set(SPLITS):
            shown["by_split"] += _by_split(name, value)
        elif isinstance(value, Mapping):
            scalars = {k: v for k, v in value.items() if not isinstance(v, Mapping | list)}
            # `labels` maps names to positions in a table, which tell a reader nothing.
            listed = key != "labels" and len(scalars) == len(value) <= 12
            shown["plain"] += [(f"{name}, {k}", plain(v)) for k, v in value.items()] if listed else []
            shown["plain"] += [] if listed else [(name, plain(len(value)))]
        elif isinstance(value, list):
            shown["notes"] += [str(note) for note in value] if key == "notes" else []
            shown["plain"] += [] if key == "notes" else [(name, plain(len(value)))]
        else:
            shown["plain"].append(
                UNITS[key](value) if key in UNITS and isinstance(value, int | float) else (name, plain(value))
            )
    return shown


def _by_split(name: str, counts: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    if not all(isinstance(value, Mapping) for value in counts.values()):
        return [(name, [counts.get(split) for split in SPLITS])]
    inner = dict.fromkeys(key for value in counts.values() for key in value)
    if len(inner) > MOST_ROWS:
        return [(f"{name}, how many", [len(counts.get(split, {})) for split in SPLITS])]
    return [(f"{name}: {key}", [counts.get(split, {}).get(key) for split in SPLITS]) for key in inner]
