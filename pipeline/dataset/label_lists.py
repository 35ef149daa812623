"""Reads lists of labels in their usual forms: lists, lists written as strings, separated names, vectors of 0 and 1."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from typing import Any

import polars as pl

from ilse.core.errors import UserError

SEPARATOR = "|"
"""What separates labels where nothing else is named."""
_OTHERS = (",", ";")
_STRINGS = (pl.String, pl.Categorical, pl.Enum)
_SINGLE = r"""'(?:[^'\\]|\\['"\\nrt]|\\x[0-9a-f]{2}|\\u[0-9a-fA-F]{4})*+'"""
_DOUBLE = r"""\"(?:[^"\\]|\\['"\\/nrtbf]|\\u[0-9a-fA-F]{4})*+\""""
_STRING = f"(?:{_SINGLE}|{_DOUBLE})"
_VALUE = rf"(?:{_STRING}|[+-]?[0-9]+(?:\.[0-9]+)?|[Tt]rue|[Ff]alse)"
_BETWEEN = r"\s*+,\s*+"  # possessive: a long run of spaces is gone through once
_LIST = re.compile(rf"\[\s*+(?:{_VALUE}(?:{_BETWEEN}{_VALUE})*+\s*+(?:,\s*+)?)?\]")
_NAMES = re.compile(rf"[({{]\s*+{_STRING}(?:{_BETWEEN}{_STRING})*+\s*+(?:,\s*+)?[)}}]")
"""A tuple or set of strings. Flat, so that reading it is bounded by its length."""

Values = list[Any]


def is_written_list(cell: str) -> bool:
    """Whether a string is a list as JSON or Python write it."""
    return bool(_LIST.fullmatch(cell) or _NAMES.fullmatch(cell))


def separated(cells: pl.Series, separator: str | None, where: str) -> pl.Series:
    """Lists of what strings hold: a list as JSON or Python write it, or names with the separator between them.

    Without a separator it is `SEPARATOR`, and cells that seem to be separated by another one are refused, as are lists
    that cannot be read, and lists beside names.
    """
    bare = cells.str.strip_chars()
    distinct = [cell for cell in bare.drop_nulls().unique(maintain_order=True).to_list() if cell]
    bracketed = [cell for cell in distinct if cell.startswith("[") and cell.endswith("]")]
    lists = distinct == bracketed and bool(distinct) and not _has(distinct, separator)
    if lists or any(map(is_written_list, distinct)):
        values = {cell: _values(cell) for cell in distinct}
        if unread := next((cell for cell, found in values.items() if found is None), None):
            raise _refused_cell(bare, unread, where)
        return _listed(bare, {"": [], **values})
    if separator is None:
        _require_separator(distinct, bare, where)
    return cells.str.split(separator or SEPARATOR)


def from_vectors(lists: pl.Series, where: str) -> pl.Series | None:
    """Converts vectors of 0 and 1, as long as there are labels, to the positions of 1 as strings; None for label lists.

    Raises `UserError` where it cannot be told which they are.
    """
    widths, values = lists.list.len().drop_nulls(), lists.explode().drop_nulls()
    inner = values.dtype
    if values.is_empty() or not _are_bits(values):
        return None
    width, several = widths[0], widths.n_unique() > 1
    numbers = inner == pl.Boolean or inner.is_float()
    repeats = bool((lists.list.n_unique() < lists.list.len()).any())
    if not numbers and not repeats and (several or width != 2):
        return None
    if several or not (numbers or repeats):
        raise UserError(
            f"data set {where}, labels",
            expected="lists of labels, or vectors of 0 and 1 that are as long as there are labels",
            found="0 and 1 alone, in lists of several lengths" if several else "0 and 1 in each list",
            next_step="write the labels' names: a list of those that the example has",
        )
    bits = lists.cast(pl.List(pl.String)) if inner in _STRINGS else lists
    return bits.list.eval(pl.int_range(pl.len()).filter(pl.element().cast(pl.Float64) == 1).cast(pl.String))


def _are_bits(values: pl.Series) -> bool:
    if values.dtype in _STRINGS:
        return bool(values.cast(pl.String).is_in(["0", "1"]).all())
    return values.dtype == pl.Boolean or (values.dtype.is_numeric() and bool(((values == 0) | (values == 1)).all()))


def _has(cells: list[str], separator: str | None) -> bool:
    return any((separator or SEPARATOR) in cell for cell in cells)


def _listed(cells: pl.Series, values: dict[str, Values | None]) -> pl.Series:
    found = [None if cell is None else values[cell] for cell in cells.to_list()]
    kinds = {type(value) for some in found for value in some or ()}
    if kinds == {bool} or (float in kinds and kinds <= {int, float}):
        return pl.Series(cells.name, found, dtype=pl.List(pl.Boolean if kinds == {bool} else pl.Float64), strict=False)
    texts = [None if some is None else [str(value) for value in some] for some in found]
    return pl.Series(cells.name, texts, dtype=pl.List(pl.String))


def _values(cell: str) -> Values | None:
    """What a list holds that is written as a string; None for any other string."""
    if not is_written_list(cell):
        return None
    try:
        try:
            found = json.loads(cell)
        except ValueError:
            found = ast.literal_eval(cell)  # of literals alone, and flat: the pattern has no list in a list
        for value in found:
            str(value).encode()  # JSON can spell half a character
    except (ValueError, SyntaxError):
        return None
    return list(found)


def _refused_cell(cells: pl.Series, cell: str, where: str) -> UserError:
    row = (cells == cell).arg_max() or 0
    return UserError(
        f"data set {where}, row {row} (from 0), labels",
        expected="lists as JSON writes them, in every row, or names with a separator between them",
        found=repr(cell[:200]),
        next_step='write the lists as JSON, such as ["a", "b"], or name the separator as prepare.label_separator',
    )


def _require_separator(distinct: list[str], cells: pl.Series, where: str) -> None:
    """Raises `UserError` where the parts of a cell, by another separator, are labels of other cells too."""
    if _has(distinct, None):
        return
    for other in _OTHERS:
        parts = {cell: {part.strip() for part in cell.split(other)} for cell in distinct}
        count = Counter(part for some in parts.values() for part in some)
        if seems := next(
            (cell for cell, some in parts.items() if len(some) > 1 and min(count[part] for part in some) > 1), None
        ):
            raise UserError(
                f"data set {where}, row {(cells == seems).arg_max()} (from 0), labels",
                expected=f"labels with '{SEPARATOR}' between them",
                found=f"{seems[:200]!r}, whose parts are labels of other rows too",
                next_step=f"set prepare.label_separator to '{other}', or to '{SEPARATOR}' if these are names",
            )
