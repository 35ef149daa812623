"""Texts and targets as people have them in memory, in lists, arrays, columns and tensors, as plain values or columns.

| targets                                                          | are                                   |
|------------------------------------------------------------------|---------------------------------------|
| strings, whole numbers, booleans, members of a `StrEnum`, …      | labels                                |
| floats                                                           | scores                                |
| lists, sets, tuples, arrays of labels; a data frame of 0 and 1   | label sets (the frame's columns)      |
| vectors of 0 and 1, as scikit-learn makes them                   | label sets (the positions)            |

None, NaN (beside others than floats), `pandas.NA` and `NaT` are no target. What could be two of these is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import polars as pl

from ilse.core.errors import UserError

_SEVERAL = (list, tuple, set, frozenset)
_LABELS: tuple[type, ...] = (str, int, Decimal)
"""True is an int."""
_GIVE = "give a string or whole number for a label, a list of them for several, a float for a score"


def listed(values: Any, name: str) -> list[Any]:
    """The values of a list, array, column, tensor or generator, plain as Python has them and None where there is none.

    An array or frame of one column is that column. Raises `UserError` for what has no order or is one value.
    """
    one = not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0
    if one or isinstance(values, str | bytes | Mapping | set | frozenset):
        found = f"one {type(values).__name__}"
        raise refused(f"extract(), {name}", "a list, array, column or tensor", found, "give one value for each example")
    values = _of_one_column(values)
    if getattr(getattr(values, "dtype", None), "kind", "") in ("M", "m"):
        raise refused(
            f"extract(), {name}", "strings or numbers", f"{values.dtype}", _GIVE
        )  # NumPy lists them as numbers
    for method in ("to_pylist", "to_list", "tolist"):  # of Arrow, of columns, of arrays and tensors
        if hasattr(values, method):
            return [plain(value) for value in getattr(values, method)()]
    return [plain(value) for value in values]


def as_column(targets: Any, name: str) -> pl.Series:
    """A column as `Targets` read those of files: strings or numbers, lists of them, or floats for scores."""
    if (frame := _label_frame(targets, name)) is not None:
        return pl.Series(name, frame, dtype=pl.List(pl.String))
    values = listed(targets, name)
    given = [value for value in values if value is not None]
    if any(isinstance(value, _SEVERAL) for value in given):
        return _lists(values, name)
    kinds = set(map(type, given))
    if float in kinds and kinds <= {int, float}:
        return _scores(values, name)
    for place, value in enumerate(values):
        if isinstance(value, float) and math.isnan(value):
            values[place] = None
        elif value is not None:
            values[place] = _label(value, f"extract(), {name} {place} (from 0)")
    return pl.Series(name, values, dtype=pl.String)


def plain(value: Any) -> Any:
    """A value as Python has it: of an array's or tensor's element, of a row, of an enumeration that is a string."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if type(value).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return None
    if type(value).__name__ in ("datetime64", "timedelta64"):
        return value  # whose `tolist` is a number
    if isinstance(value, Enum):
        return value.value if isinstance(value, str | int) else value
    if isinstance(value, _SEVERAL):
        return type(value)(map(plain, value)) if type(value) in _SEVERAL else list(map(plain, value))
    if isinstance(value, str):
        return str(value)
    for method in ("as_py", "to_list", "tolist"):  # of Arrow, of columns, of arrays, tensors and their elements
        if hasattr(value, method):
            found = getattr(value, method)()
            return found if type(found) is type(value) else plain(found)
    return value


def refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    """The error for one thing that was given."""
    return UserError(where, expected=expected, found=found[:200], next_step=next_step)


def _of_one_column(values: Any) -> Any:
    """Reduces a data frame or array with a single column to that column, and makes a sparse matrix dense."""
    if hasattr(values, "toarray"):
        values = values.toarray()
    if names := _columns_of(values):
        if len(names) == 1:
            return values[names[0]]
        found = f"a table of the columns {', '.join(map(str, names))}"
        raise refused("extract()", "one value for each example", found, "give one of its columns")
    if getattr(values, "ndim", 1) == 2 and values.shape[1] == 1:
        return values.reshape(-1)
    return values


def _columns_of(values: Any) -> list[Any]:
    """The names of the columns of pandas', Polars' or Arrow's tables; none of anything else."""
    names = getattr(values, "column_names", getattr(values, "columns", None))
    return list(names) if names is not None and hasattr(values, "shape") else []


def _label_frame(targets: Any, name: str) -> list[list[str]] | None:
    """Labels of each row of a data frame that has a column of 0 and 1 per label; None for anything else."""
    names = _columns_of(targets)
    if len(names) < 2:
        return None
    columns = {str(label): listed(targets[label], name) for label in names}
    for label, values in columns.items():
        if wrong := next((value for value in values if value not in (0, 1)), None) or None in values:
            found = f"{wrong!r} in the column {label}"
            raise refused(f"extract(), {name}", "a column of 0 and 1 for each label", found, "give one of its columns")
    return [
        [label for label, has in zip(columns, row, strict=True) if has] for row in zip(*columns.values(), strict=True)
    ]


def _scores(values: list[Any], name: str) -> pl.Series:
    for place, value in enumerate(values):
        if value is not None and not math.isfinite(value):
            next_step = (
                "floats are scores: leave the example out or give None; for labels give whole numbers or strings, "
                "which pandas keeps beside missing ones as .astype('Int64')"
            )
            raise refused(f"extract(), {name} {place} (from 0)", "a finite number as score", repr(value), next_step)
    return pl.Series(name, [value if value is None else float(value) for value in values], dtype=pl.Float64)


def _lists(values: list[Any], name: str) -> pl.Series:
    for place, value in enumerate(values):
        where = f"extract(), {name} {place} (from 0)"
        if value is not None and not isinstance(value, _SEVERAL):
            raise refused(where, "a list of labels, as other examples have", repr(value), _GIVE)
        for label in value or ():
            if not isinstance(label, str | int | float) or (isinstance(label, float) and label not in (0, 1)):
                raise refused(where, "a list of strings or whole numbers", repr(value), _GIVE)
    kinds = {type(label) for value in values for label in value or ()}
    # A set has each value once: of 0 and 1 it is no vector.
    vectors = kinds <= {bool, int, float} and not any(isinstance(value, set | frozenset) for value in values)
    if vectors and (kinds == {bool} or float in kinds):
        found = [None if value is None else list(map(float, value)) for value in values]
        return pl.Series(name, found, dtype=pl.List(pl.Float64))
    texts = [
        None
        if value is None
        else sorted(_label(one, name) for one in value)
        if isinstance(value, set | frozenset)
        else [_label(one, name) for one in value]
        for value in values
    ]
    return pl.Series(name, texts, dtype=pl.List(pl.String))


def _label(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()  # as in files
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    if isinstance(value, Enum | Decimal) or not isinstance(value, _LABELS):
        kind = f"{value!r}, a {type(value).__name__}"
        raise refused(where, "a label, a list of labels or a score", kind, _GIVE)
    return str(value)


def strings(values: Iterable[Any], name: str) -> list[Any]:
    """The values, all strings. Raises `UserError` for the first that is none."""
    found = listed(values, name)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            next_step = "decode the bytes" if isinstance(text, bytes) else "give a string for every example"
            raise refused(f"extract(), {name} {place} (from 0)", "a string", repr(text), next_step)
    return found
