"""Tables in: CSV files with checked columns, in which labels stay text and numbers are numbers or empty."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ilse.errors import UserError

Columns = Mapping[str, Any]
Row = dict[str, Any]

TEXT, NUMBER, COUNT, FLAG = pl.String, pl.Float64, pl.Int64, pl.Boolean
"""Kinds of columns."""


def required(path: Path) -> Path:
    """The path, where there is such a file."""
    if not path.is_file():
        raise UserError(
            f"results {path}",
            expected="a file that 'ilse evaluate' writes",
            found="no such file",
            next_step="run 'ilse evaluate' first, or 'dvc repro'",
        )
    return path


def optional(paths: list[Path], columns: Columns, may: Columns | None = None) -> pl.DataFrame | None:
    """The rows of those of the files that are there; None without any."""
    tables = [table(path, columns, may) for path in paths if path.is_file()]
    whole = pl.concat(tables) if tables else pl.DataFrame()
    return None if whole.is_empty() else whole


def filled(path: Path, columns: Columns, may: Columns | None = None) -> pl.DataFrame:
    """A table that must have rows."""
    found = table(path, columns, may)
    if found.is_empty():
        raise unreadable(path, "at least one row", "only a header")
    return found


def table(path: Path, columns: Columns, may: Columns | None = None) -> pl.DataFrame:
    """The named columns of a CSV, and those of `may`, empty where it lacks them.

    Labels stay text ('1', 'NA', ''), and numbers that JSON lacks become null.
    """
    kinds = {**columns, **(may or {})}
    try:
        read = pl.read_csv(path, infer_schema=False)
        absent = [pl.lit(None, TEXT).alias(name) for name in (may or {}) if name not in read.columns]
        typed = [_typed(name, kind) for name, kind in kinds.items()]
        return read.with_columns(absent).select(list(kinds)).fill_null("").with_columns(typed)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, f"columns {', '.join(columns)}", str(error).splitlines()[0]) from error


def _typed(name: str, kind: Any) -> pl.Expr:
    text = pl.col(name)
    if kind == TEXT:
        return text
    if kind == FLAG:
        return text.str.to_lowercase().replace_strict({"true": True, "false": False, "": None}, return_dtype=FLAG)
    number = text.replace("", None).cast(NUMBER)
    return pl.when(number.is_finite()).then(number).cast(kind)


def facts_of(path: Path) -> Row | None:
    """A stage's figures, None where it left none."""
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_bytes())
    except ValueError as error:
        raise unreadable(path, "JSON", str(error)) from error
    return facts if isinstance(facts, dict) else {"value": facts}


def unreadable(path: Path, expected: str, found: str) -> UserError:
    """The error for a file that is there and of no use."""
    return UserError(
        f"results {path}",
        expected=expected,
        found=found,
        next_step="run the stage that writes it again, or 'dvc repro'",
    )
