"""Whether the chosen head is as sure as it is right: overconfident, underconfident, or neither."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from trainer.results.intervals import wilson
from trainer.statistics import calibration_error

OVER, UNDER, NEITHER = "overconfident", "underconfident", "well calibrated on average"


@dataclass(frozen=True)
class Confidence:
    """Means over the test examples, as shares; `error` is the expected calibration error."""

    confidence: float
    accuracy: float
    error: float
    words: str
    """One of the three above."""


def confidence_of(table: pl.DataFrame, examples: int) -> Confidence | None:
    """Of one head's bins in `calibration.csv`, which count every seed's answers to the `examples`; None without rows.

    A head is called over- or underconfident where its mean confidence lies outside the 95 % interval of its accuracy.
    """
    filled = table.filter(pl.col("rows") > 0).drop_nulls(["confidence", "accuracy"])
    error, rows = calibration_error(filled), int(filled["rows"].sum())
    if error is None:
        return None
    confidence, accuracy = (float((filled["rows"] * filled[name]).sum()) / rows for name in ("confidence", "accuracy"))
    low, high = wilson(min(max(accuracy, 0.0), 1.0), examples)
    words = OVER if confidence > high else UNDER if confidence < low else NEITHER
    return Confidence(confidence, accuracy, error, words)
