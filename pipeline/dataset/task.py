"""Checks that a prepared data set is a task: rows with targets in every split, and at least two labels."""

from __future__ import annotations

import polars as pl

from ilse.core.errors import UserError
from ilse.core.tables import SPLIT, SPLITS, TEST, VALIDATION
from pipeline.dataset.columns import TARGET
from pipeline.dataset.targets import Kind, label_names


def require_usable(rows: int, full: int, usable: int, kind: Kind, where: str) -> None:
    """Raises `UserError` if no row is usable. Of `rows` rows, `full` have a text, and `usable` of these a target."""
    if not usable:
        counts = {"without a text": rows - full, f"without a {kind}": full}
        raise UserError(
            where,
            expected=f"rows with a text and a {kind}",
            found="none: " + ", ".join(f"{count:,} rows {what}" for what, count in counts.items() if count),
            next_step="check the columns that section 'prepare' names",
        )


def require_splits(rows: pl.DataFrame, needed: tuple[str, ...], where: str) -> None:
    """Raises `UserError` for a split without examples that has to have some."""
    sizes = {split: rows.filter(pl.col(SPLIT) == split).height for split in SPLITS}
    if not all(sizes[split] for split in needed):
        raise UserError(
            where,
            expected="at least one example in each split" if needed == SPLITS else "at least one example to test on",
            found=", ".join(f"{split} {size}" for split, size in sizes.items()),
            next_step="give more examples, other shares in prepare.splits, or a path for the split that is empty",
        )


def require_test_targets(rows: pl.DataFrame, where: str) -> None:
    """Raises `UserError` where a split has -1 alone, as published data sets have whose test targets are kept back."""
    if rows[TARGET].dtype not in (pl.String, pl.Float64):
        return
    for split in (TEST, VALIDATION):
        here, there = (
            rows.filter(chosen)[TARGET].unique() for chosen in (pl.col(SPLIT) == split, pl.col(SPLIT) != split)
        )
        kept_back = len(here) > 0 and here.cast(pl.String).is_in(["-1", "-1.0"]).all()
        if kept_back and len(there) and not there.is_in(here.implode()).any():
            raise UserError(
                f"{where}, split '{split}'",
                expected="targets to test on",
                found="-1 in every row, and in no other split: targets that were kept back",
                next_step="give a path for each split in prepare.path, and as test a split that has its targets",
            )


def required_names(labels: pl.Series, kind: Kind, where: str) -> list[str]:
    """The label map. Raises `UserError` if there are fewer than two labels."""
    names = label_names(labels)
    if kind == "label" and len(names) < 2:
        raise UserError(
            where,
            expected="at least two labels",
            found=f"only '{names[0]}'",
            next_step="check prepare.label_column, or the folder's sub-folders",
        )
    if not names:
        raise UserError(
            where,
            expected="at least one label",
            found=f"{len(labels):,} examples without any",
            next_step="check prepare.labels_column",
        )
    return names
