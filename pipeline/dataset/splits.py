"""The split of every example: given with the data, or drawn such that a text or pair alone decides its split."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import polars as pl
from pydantic import Field, model_validator

from ilse.core.errors import UserError, did_you_mean
from ilse.core.params import Section
from ilse.core.tables import SPLIT, SPLITS, TEST, TRAIN, VALIDATION
from pipeline.dataset.strata import STRATUM, draw_by_label, stratum_of

_OTHER_NAMES = {"training": TRAIN, "dev": VALIDATION, "val": VALIDATION, "valid": VALIDATION}
_NAMES = {name: name for name in SPLITS} | _OTHER_NAMES
SPLIT_NAMES = tuple(_NAMES)

KEEPING = (TEST, VALIDATION, TRAIN)
"""Which split keeps a text or pair that is in several: the test set stays whole."""


class SplitFractions(Section):
    """Expected share of the distinct texts, or pairs of texts, in each split; the three sum to 1."""

    train: float = Field(gt=0, lt=1, description="Share of the training split, 0 to 1.")
    validation: float = Field(gt=0, lt=1, description="Share of the validation split, 0 to 1.")
    test: float = Field(gt=0, lt=1, description="Share of the test split, 0 to 1.")

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitFractions:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"train + validation + test = 1 (they sum to {total:.6g})")
        return self


class Assigned(NamedTuple):
    """Rows with their final split, and what was done to get there."""

    rows: pl.DataFrame
    leaks: int
    drawn: tuple[str, ...]


def split_name(name: str, where: str) -> str:
    """One of train, validation and test for any of their usual names; `UserError` for another word."""
    found = _NAMES.get(name.strip().lower())
    if found is None:
        raise UserError(
            where,
            expected=f"a split named {', '.join(SPLIT_NAMES)}",
            found=f"'{name}'",
            next_step=did_you_mean(name.lower(), SPLIT_NAMES, "rename the split, or leave its rows out", 0.6),
        )
    return found


def uniform(unit_id: str, seed: int | str) -> float:
    """A number in [0, 1] that is fixed by the id and the seed: the first 64 bits of SHA-256 of `seed:id`."""
    digest = hashlib.sha256(f"{seed}:{unit_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sampled(rows: pl.DataFrame, by: str, limit: int) -> pl.DataFrame:
    """The rows of `limit` ids of the column `by`, in their order: a sample that a greater limit only adds to."""
    ids = rows[by].unique(maintain_order=True)
    drawn = pl.DataFrame({by: ids, "number": _numbers(ids, "limit")}).sort("number").head(limit)
    return rows.filter(pl.col(by).is_in(drawn[by].implode()))


def draw(ids: pl.Series, fractions: SplitFractions, seed: int) -> pl.Series:
    """A split for each id, shape (ids,); no other id has a say in it, so appending rows moves none.

    Test comes first on the unit interval: changing the share of validation then leaves the test set alone.
    """
    number = _numbers(ids, seed)
    test, held_out = number < fractions.test, number < fractions.test + fractions.validation
    return pl.select(
        pl.when(test).then(pl.lit(TEST)).when(held_out).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN)).alias(SPLIT)
    ).to_series()


def _numbers(ids: pl.Series, seed: int | str) -> pl.Series:
    return pl.Series([uniform(unit_id, seed) for unit_id in ids], dtype=pl.Float64)


def assign(rows: pl.DataFrame, by: str, fractions: SplitFractions, seed: int, stratify: bool = False) -> Assigned:
    """Give every row its split, and every id in the column `by` one split only.

    `rows` has `by` and `split`; a null split in every row means that all splits are drawn. Given splits without
    validation get one drawn from train, with the probability `fractions.validation`. An id in several given splits
    stays in the one that `KEEPING` names first; its other rows are dropped and counted as leaks. With `stratify` each
    label has its share in each split that is drawn.
    """
    if rows[SPLIT].is_null().all():
        ids = rows[by].unique(maintain_order=True)
        if stratify:
            strata = stratum_of(rows, by)[STRATUM]
            splits = draw_by_label(strata, _numbers(ids, seed), fractions.test, fractions.validation)
        else:
            splits = draw(ids, fractions, seed)
        table = pl.DataFrame({by: ids, SPLIT: splits})
        return Assigned(rows.drop(SPLIT).join(table, on=by, how="left", maintain_order="left"), 0, SPLITS)
    # Before validation is drawn, so that nothing of the test set can be drawn from train.
    rank = pl.col(SPLIT).replace_strict({name: i for i, name in enumerate(KEEPING)}, return_dtype=pl.Int8)
    kept = rows.filter(rank == rank.min().over(by))
    leaks = rows.height - kept.height
    if VALIDATION in rows[SPLIT] or TRAIN not in rows[SPLIT]:
        return Assigned(kept, leaks, ())
    drawn = pl.when((pl.col(SPLIT) == TRAIN) & _held_out(kept, by, fractions.validation, seed, stratify))
    held_out = drawn.then(pl.lit(VALIDATION)).otherwise(SPLIT).alias(SPLIT)
    return Assigned(kept.with_columns(held_out), leaks, (VALIDATION,))


def _held_out(rows: pl.DataFrame, by: str, share: float, seed: int, stratify: bool) -> pl.Series:
    """Which rows would be validation if they are of the training split."""
    if not stratify:
        return _numbers(rows[by], seed) < share
    train = rows.filter(pl.col(SPLIT) == TRAIN)
    table = stratum_of(train, by)
    drawn = draw_by_label(table[STRATUM], _numbers(table[by], seed), 0.0, share)
    return rows[by].is_in(table.filter(drawn == VALIDATION)[by].implode())
