"""Targets of examples: a label or a set of labels (strings, mapped alike in all splits), or a score (a number)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

from ilse.core.errors import UserError
from ilse.core.label_order import in_order
from ilse.core.tables import SOURCE_ROW, TEXT
from pipeline.dataset.columns import PAIR_TEXT, TARGET
from pipeline.dataset.label_lists import from_vectors, is_written_list, separated
from pipeline.dataset.label_names import clean, one_a_number
from pipeline.dataset.texts import Unit

Conflicts = Literal["drop", "error", "keep"]
Kind = Literal["label", "label set", "score"]

_STRINGS = (pl.String, pl.Categorical, pl.Enum)

_WANTED: dict[Kind, tuple[str, str]] = {
    "label": (
        "names or whole numbers",
        "name another column as prepare.label_column, or as prepare.score_column if it holds scores",
    ),
    "label set": (
        "lists of names or whole numbers, or strings of names",
        "name another column as prepare.labels_column, or as prepare.label_column if it holds one label each",
    ),
    "score": (
        "a finite number as score",
        "correct or remove the row, or name another column as prepare.score_column",
    ),
}
"""What a target must be, and what to do about one that is not."""


class Settled(NamedTuple):
    """Rows whose units each have one target (unless contradictions are kept), and how many rows and units had more."""

    rows: pl.DataFrame
    conflicting_rows: int
    conflicting_units: int


def as_labels(target: pl.Series, where: str) -> pl.Series:
    """Labels as `clean` strings, null where there is none; a whole number in a column of decimals loses its `.0`."""
    if target.dtype.is_nested() or target.dtype.is_temporal() or target.dtype == pl.Binary:
        raise _no("label", f"{where}, labels", f"a column of {target.dtype}")
    if target.dtype.is_float() or target.dtype.is_decimal():
        target = _whole(target, where)
    labels = pl.select(clean(pl.lit(target.cast(pl.String)))).to_series()
    labels = labels.set(labels == "", None)
    _refuse_written_lists(labels, where)
    return labels.alias(target.name)


def _whole(numbers: pl.Series, where: str) -> pl.Series:
    if numbers.dtype.is_float():
        numbers = numbers.fill_nan(None)
    broken = numbers.filter((numbers != numbers.round()) | numbers.cast(pl.Float64).is_infinite())
    if len(broken):
        raise _no("label", f"{where}, labels", f"the number {broken[0]}")
    # Through Python's integers, which have no largest one.
    texts = [None if value is None else str(int(value)) for value in numbers.to_list()]
    return pl.Series(numbers.name, texts, dtype=pl.String)


def _refuse_written_lists(labels: pl.Series, where: str) -> None:
    distinct = labels.drop_nulls().unique().to_list()
    if distinct and all(map(is_written_list, distinct)):
        raise UserError(
            f"data set {where}, labels",
            expected="one label per example",
            found=f"a list written as a string, {distinct[0][:200]!r}",
            next_step="name the column as prepare.labels_column, for several labels per example",
        )


def as_label_sets(
    target: pl.Series, where: str, separator: str | None = None, notes: list[str] | None = None
) -> pl.Series:
    """Lists of distinct, `clean` labels in alphabetic order, empty for no label and null where the target is missing.

    Takes lists of strings or whole numbers, strings that hold such a list or that `separator` splits, and vectors of 0
    and 1, whose labels are positions, as a line of `notes` then says; blank labels do not count.
    """
    if target.dtype == pl.Array:
        target = target.arr.to_list()
    if target.dtype in _STRINGS:
        target = separated(target.cast(pl.String), separator, where)
    inner = target.dtype.inner if isinstance(target.dtype, pl.List) else None
    if inner is None and target.dtype != pl.Null:
        raise _no("label set", f"{where}, labels", f"a column of {target.dtype}")
    if inner is not None and inner != pl.Null:
        _check_whole(target, where)
        vectors = from_vectors(target, where)
        if vectors is not None and notes is not None:
            notes.append(f"vectors of 0 and 1 in {where}: each label is named by its position, from 0")
        target = target if vectors is None else vectors
        inner = target.dtype.inner  # type: ignore[attr-defined]
    if inner is not None and not (inner in (*_STRINGS, pl.Null) or inner.is_integer()):
        raise _no("label set", f"{where}, labels", f"a column of {target.dtype}")
    labels = target.cast(pl.List(pl.String)).list.eval(clean(pl.element()))
    return labels.list.eval(pl.element().filter(pl.element() != "")).list.unique().list.sort()


def _check_whole(lists: pl.Series, where: str) -> None:
    # A null may be any label: without it the list would say that the example does not have that one.
    broken = lists.list.contains(None).fill_null(False)
    if broken.any():
        row = broken.arg_max() or 0
        raise _no("label set", f"{where}, row {row} (from 0)", f"a null in {lists[row].to_list()}")


def as_scores(target: pl.Series, where: str) -> pl.Series:
    """Scores as float64, null where there is none; `UserError` for a word, NaN or an infinity."""
    if target.dtype == pl.String:
        target = target.str.strip_chars()
        target = target.set(target == "", None)
    if not (target.dtype.is_numeric() or target.dtype in (pl.String, pl.Null)):
        raise _no("score", where, f"a column of {target.dtype}")
    scores = target.cast(pl.Float64, strict=False)
    wrong = (scores.is_null() & target.is_not_null()) | ~scores.is_finite().fill_null(True)
    if wrong.any():
        row = wrong.arg_max() or 0
        raise _no("score", f"{where}, row {row} (from 0)", repr(target[row]))
    return scores


def _no(kind: Kind, where: str, found: str) -> UserError:
    expected, next_step = _WANTED[kind]
    return UserError(f"data set {where}", expected=expected, found=found, next_step=next_step)


def label_names(labels: pl.Series) -> list[str]:
    """The label map: distinct labels in sorted order, by value where all of them are numbers."""
    return in_order(each_label(labels).unique().to_list())


def each_label(labels: pl.Series) -> pl.Series:
    """Every label of every example, shape (labels,): lists taken apart."""
    return labels.explode().drop_nulls() if isinstance(labels.dtype, pl.List) else labels


def with_one_spelling(labels: pl.Series, where: str) -> tuple[pl.Series, dict[str, str]]:
    """The labels, or lists of them, with numbers under one name each, and what became of which spelling."""
    names = one_a_number(each_label(labels).drop_nulls().unique().to_list(), where)
    if not names:
        return labels, names
    if not isinstance(labels.dtype, pl.List):
        return labels.replace(names), names
    return labels.list.eval(pl.element().replace(names)).list.unique().list.sort(), names


def settle(rows: pl.DataFrame, unit: Unit, conflicts: Conflicts, where: str) -> Settled:
    """Drop, refuse or keep the units that stand in `rows` with more than one target."""
    several = pl.col(TARGET).n_unique().over(unit.same_by) > 1
    bad = rows.filter(several)
    units = bad.select(unit.same_by).unique().height
    if bad.is_empty() or conflicts == "keep":
        return Settled(rows, bad.height, units)
    if conflicts == "error":
        raise _contradiction(bad, unit, units, where)
    return Settled(rows.filter(~several), bad.height, units)


def _contradiction(bad: pl.DataFrame, unit: Unit, units: int, where: str) -> UserError:
    first = bad.join(bad.head(1), on=unit.same_by, how="semi", maintain_order="left")
    targets = ", ".join(str(target) for target in first[TARGET].unique(maintain_order=True).to_list())
    texts = " and ".join(repr(first[name][0][:80]) for name in (TEXT, PAIR_TEXT) if name in first.columns)
    return UserError(
        f"{where}, rows {', '.join(str(row) for row in first[SOURCE_ROW])}",
        expected=f"one label, label set or score for a {unit.noun}",
        found=f"{targets} for {texts} ({units} such {unit.noun}s)",
        next_step="correct the rows, or set prepare.conflicts to drop or keep",
    )
