"""Splits drawn label by label: each label has the same share of its examples in each split."""

from __future__ import annotations

import hashlib
import math

import polars as pl

from ilse.core.tables import TEST, TRAIN, VALIDATION
from pipeline.dataset.columns import TARGET

STRATUM = "stratum"
LEAST = 3
"""Examples of a label from which on each split has one of them."""


def stratum_of(rows: pl.DataFrame, by: str) -> pl.DataFrame:
    """The label that each id in the column `by` is drawn with: columns `by`, `stratum`, in order of first appearance.

    That is its label. Of several, in a set or in contradiction, it is the one with the fewest examples, and of equals
    the first in alphabetic order: a rare label then reaches every split.
    """
    labels = rows.select(by, pl.col(TARGET).alias(STRATUM))
    if isinstance(rows[TARGET].dtype, pl.List):
        labels = labels.explode(STRATUM)
    counted = labels.drop_nulls().unique().with_columns(pl.len().over(STRATUM).alias("examples"))
    chosen = counted.sort("examples", STRATUM, by).unique(by, keep="first", maintain_order=True).select(by, STRATUM)
    found = rows.select(by).unique(maintain_order=True).join(chosen, on=by, how="left", maintain_order="left")
    return found.with_columns(pl.col(STRATUM).fill_null(""))  # of a set without labels


def draw_by_label(strata: pl.Series, numbers: pl.Series, test: float, validation: float) -> pl.Series:
    """A split for each id, of its stratum and its number in [0, 1]: a stratum's lowest numbers are its test set.

    Shares that are no whole number of examples are rounded up or down, evenly among strata. With `LEAST` examples of a
    label or more each split has one, if its share is above 0; a single example is one to train on.
    """
    table = pl.DataFrame({STRATUM: strata, "number": numbers})
    sizes = table[STRATUM].value_counts().iter_rows()
    cuts = [(name, *_counts(name, size, test, validation)) for name, size in sizes]
    places = pl.DataFrame(cuts, schema={STRATUM: pl.String, "tested": pl.Int64, "held_out": pl.Int64}, orient="row")
    rank = pl.col("number").rank("ordinal").over(STRATUM)
    kept = pl.when(rank <= pl.col("held_out")).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN))
    ranked = table.join(places, on=STRATUM, how="left", maintain_order="left")
    return ranked.select(pl.when(rank <= pl.col("tested")).then(pl.lit(TEST)).otherwise(kept)).to_series()


def _counts(name: str, size: int, test: float, validation: float) -> tuple[int, int]:
    """Examples of one label to test on, and to test or validate on."""
    offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    least = size >= LEAST
    tested = max(math.floor(size * test + offset), int(least and test > 0))
    both = max(math.floor(size * (test + validation) + offset), tested + int(least and validation > 0))
    both = min(both, size - 1)
    return min(tested, both), both
