"""Calibration of a head: expected calibration error, and the table that it comes from."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from ilse.core.errors import UserError
from trainer.statistics.unsuitable import require_finite, require_rows, require_same

BINS = 15
"""Number of bins, as in Guo et al. 2017."""
ROUNDING = 1e-4
"""How far a sum of half-precision probabilities may be beyond 1."""


def reliability(
    confidence: Float[np.ndarray, " rows"], right: Bool[np.ndarray, " others"], bins: int = BINS
) -> pl.DataFrame:
    """Answers by how sure the head was: `low`, `high`, `rows`, mean `confidence` and `accuracy`, one row per bin.

    `confidence` is the probability of each answer, `right` whether it was. Bins are of equal width, each with its upper
    end and without its lower one (Guo et al. 2017, "On calibration of modern neural networks", section 2); bins without
    rows have no confidence and accuracy. Raises `UserError` for other lengths, no rows, and what is no probability.
    """
    where = "calibration"
    require_same("probabilities", len(right), len(confidence), where)
    require_rows(len(right), 1, where)
    require_finite(confidence, where)
    if confidence.min() < 0 or confidence.max() > 1 + ROUNDING:
        found = f"numbers from {confidence.min():g} to {confidence.max():g}"
        raise UserError(
            where, expected="probabilities, 0 to 1", found=found, next_step="give a classifier's probabilities"
        )
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)
    rows, sure, hits = (np.bincount(place, weight, bins) for weight in (None, confidence, right))
    filled = rows > 0
    means = {
        name: [float(s / n) if some else None for s, n, some in zip(sums, rows, filled, strict=True)]
        for name, sums in (("confidence", sure), ("accuracy", hits))
    }
    columns = {"low": edges[:-1], "high": edges[1:], "rows": rows.astype(np.int64), **means}
    return pl.DataFrame(columns, schema_overrides={name: pl.Float64 for name in means})


def calibration_error(table: pl.DataFrame) -> float | None:
    """Expected calibration error of a `reliability` table: mean distance of accuracy and confidence over rows (eq. 3).

    None of a table without rows.

    torchmetrics' `multiclass_calibration_error` is the same, but for answers with a probability of exactly 1, which it
    puts into a bin of their own; a softmax in float32 gives many.
    """
    filled = table.filter(pl.col("rows") > 0)
    apart = (filled["rows"] * (filled["accuracy"] - filled["confidence"]).abs()).sum()
    return float(apart) / float(filled["rows"].sum()) if len(filled) else None
