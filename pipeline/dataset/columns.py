"""Columns of a data set's files: their names, our names, and errors for missing or malformed ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ilse.core.errors import UserError, did_you_mean
from ilse.core.tables import SPLIT, TEXT

TARGET = "target"
"""The label, labels or score, as it stands in the source."""

PAIR_TEXT = "text_pair"
"""The second text of a pair."""


class Columns(NamedTuple):
    """The names of the source's columns; `several` where the target is a list of labels."""

    text: str
    target: str
    split: str | None
    pair: str | None = None
    several: bool = False


def names_of(columns: Columns) -> dict[str, str]:
    """Our name → the source's."""
    names = {TEXT: columns.text, PAIR_TEXT: columns.pair, TARGET: columns.target, SPLIT: columns.split}
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def wanted_of(columns: Columns, present: list[str], file: Path) -> dict[str, str]:
    """Our name → the source's, after a look whether the source has them."""
    wanted = names_of(columns)
    require_columns(wanted.values(), present, file, "in params.yaml")
    return wanted


def require_columns(names: Iterable[str], present: list[str], file: Path | str, where: str) -> None:
    """Raises `UserError` for a name that no column has, or several; `where` says where the right one is to be named."""
    for name in names:
        if present.count(name) > 1:
            raise UserError(
                f"data set {file}",
                expected=f"one column '{name}'",
                found=f"{present.count(name)} of that name among the columns {', '.join(present)}",
                next_step="rename or remove all but one",
            )
        if name not in present:
            raise UserError(
                f"data set {file}",
                expected=f"a column '{name}'",
                found=f"the columns {', '.join(present)}" if present else "no columns",
                next_step=did_you_mean(name, present, f"name the right column {where}", 0.6),
            )


def malformed(
    file: Path | str, line: int, expected: str, found: str, next_step: str = "fix that line, or remove it"
) -> UserError:
    """The error for one line of a file."""
    return UserError(f"data set {file}, line {line}", expected=expected, found=found, next_step=next_step)
