"""Reads result tables: CSV files whose columns are checked, each cell against the kind of its column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.table_files import read_csv
from ilse.core.terminal import visible

ROUNDING = 1e-6
"""How far a share may be above 1: tables hold six digits."""

NO_NUMBER = ["", "nan", "inf", "-inf"]


@dataclass(frozen=True)
class Kind:
    """Allowed cells of a column: text, flags, or numbers from `least` to `most`."""

    dtype: Any
    least: float = 0.0
    most: float = 2.0**53
    empty: bool = False
    """Whether a number may be missing."""


TEXT, FLAG = Kind(pl.String), Kind(pl.Boolean)
KNOWN = Kind(pl.Float64, -3.4e38, 3.4e38)
"""Any number that 32 bits hold."""
NUMBER = replace(KNOWN, empty=True)
SHARE = Kind(pl.Float64, 0.0, 1 + ROUNDING, empty=True)
SECONDS = Kind(pl.Float64)
COUNT, POSITIVE = Kind(pl.Int64), Kind(pl.Int64, 1.0)
MAYBE_COUNT = replace(COUNT, empty=True)


@dataclass(frozen=True)
class Table:
    """The columns of a CSV by name, and what holds between its cells.

    Parameters
    ----------
    columns
        Those that it must have.
    keys
        Columns that no two rows have the same of.
    ordered
        Columns whose numbers ascend within a row, where they are known.
    may
        Columns that it may lack; they are then empty.
    """

    columns: Mapping[str, Kind]
    keys: tuple[tuple[str, ...], ...] = ()
    ordered: tuple[tuple[str, ...], ...] = ()
    may: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kinds of all columns."""
        return {**self.columns, **self.may}


def read_table(path: Path, wanted: Table) -> pl.DataFrame:
    """The columns of a CSV that are `wanted`, of their kinds.

    Labels stay text ('1', 'NA', ''), with control characters as escapes. Raises `UserError` that names the file, and
    the column and row where a cell is of another kind.
    """
    kinds = wanted.kinds
    try:
        read = read_csv(path, infer_schema=False)
        absent = [pl.lit(None, pl.String).alias(name) for name in wanted.may if name not in read.columns]
        text = read.with_columns(absent).select(list(kinds)).fill_null("")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, f"columns {', '.join(wanted.columns)}", str(error).splitlines()[0][:200]) from error
    if twice := [name for name in kinds if f"{name}_duplicated_0" in read.columns]:
        raise unreadable(path, "every column once", f"column {twice[0]} twice")
    found = text.select(_typed(path, text[name], kind) for name, kind in kinds.items())
    _check_rows(path, found, wanted)
    return found


def require_range(path: Path, column: pl.Series, least: float, most: float) -> None:
    """Raises `UserError` for known numbers beyond `least` and `most`, naming the first."""
    _require(path, column, (column < least) | (column > most + ROUNDING), f"numbers from {least:g} to {most:g}")


def unreadable(path: Path, expected: str, found: str) -> UserError:
    """The error for a file that is there and of no use."""
    return UserError(
        f"results {path}",
        expected=expected,
        found=found,
        next_step="run the stage that writes it again, or 'dvc repro'",
    )


def _typed(path: Path, text: pl.Series, kind: Kind) -> pl.Series:
    if kind.dtype == pl.String:
        return text.map_elements(visible, return_dtype=pl.String)
    if kind.dtype == pl.Boolean:
        flags = text.str.to_lowercase().replace_strict(
            {"true": True, "false": False, "": None}, default=None, return_dtype=pl.Boolean
        )
        _require(path, text, flags.is_null() & (text != ""), "true or false")
        return flags
    number = text.replace("", None).cast(pl.Float64, strict=False)
    known = number.is_finite().fill_null(False)
    wrong = ~known | (number < kind.least) | (number > kind.most)
    whole = kind.dtype == pl.Int64
    if whole:
        wrong |= number != number.round()
    wrong = wrong.fill_null(True)
    if kind.empty:  # a writer without such a number leaves nothing, or what JSON lacks
        wrong &= ~text.str.to_lowercase().is_in(NO_NUMBER)
    name = "whole numbers" if whole else "numbers"
    least = f" from {kind.least:g}" if kind.least > KNOWN.least else ""
    most = f" to {kind.most:g}" if kind.most < COUNT.most else ""
    _require(path, text, wrong, name + least + most)
    return pl.select(pl.when(known).then(number).cast(kind.dtype).alias(text.name)).to_series()


def _check_rows(path: Path, found: pl.DataFrame, wanted: Table) -> None:
    for key in wanted.keys:
        again = ~found.select(pl.struct(key).is_first_distinct()).to_series()
        if again.any():
            row = found.row(again.arg_true()[0], named=True)
            told = ", ".join(f"{name} {row[name]}" for name in key)
            raise unreadable(path, f"one row for each {' and '.join(key)}", f"more than one for {told[:200]}")
    for names in wanted.ordered:
        for low, high in pairwise(names):
            above = found[low] > found[high] + ROUNDING
            _require(path, found[low], above, f"numbers in column {low} up to those in {high}", named=False)


def _require(path: Path, column: pl.Series, wrong: pl.Series, expected: str, named: bool = True) -> None:
    places = wrong.fill_null(False).arg_true()
    if len(places):
        found = f"{str(column[places[0]])[:80]!r} in row {places[0]} (from 0)"
        raise unreadable(path, f"{expected} in column {column.name}" if named else expected, found)
