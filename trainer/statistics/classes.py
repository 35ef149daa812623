"""A head's answers class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int

from ilse.core.errors import UserError
from trainer.statistics.unsuitable import require_rows, require_same


def per_class(
    y: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " others"], labels: Sequence[str]
) -> pl.DataFrame:
    """One row per class, in the order of `labels`: `label`, `rows`, `predicted` (count), `precision`, `recall`, `f1`.

    `y` and `predicted` index `labels`. A class without rows has neither recall nor F1 (null: there was nothing to
    find), one that is never predicted no precision; F1 of a class that has rows and is never predicted is 0. Raises
    `UserError` for other lengths, no rows, and indices beyond the labels.
    """
    require_same("answers", len(y), len(predicted), "classes")
    require_rows(len(y), 1, "classes")
    _require_labels(y, predicted, len(labels))
    rows, said, hits = (np.bincount(which, minlength=len(labels)) for which in (y, predicted, y[y == predicted]))
    return pl.DataFrame(
        {
            "label": list(labels),
            "rows": rows,
            "predicted": said,
            "precision": _shares(hits, said, said),
            "recall": _shares(hits, rows, rows),
            "f1": _shares(2 * hits, said + rows, rows),
        },
        schema={"label": pl.String, "rows": pl.Int64, "predicted": pl.Int64}
        | {name: pl.Float64 for name in ("precision", "recall", "f1")},
    )


def _shares(
    parts: Int[np.ndarray, " labels"], wholes: Int[np.ndarray, " labels"], there: Int[np.ndarray, " labels"]
) -> list[float | None]:
    """`parts` / `wholes`, null where there is nothing."""
    return [float(p / w) if some else None for p, w, some in zip(parts, wholes, there, strict=True)]


def _require_labels(y: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"], labels: int) -> None:
    least, most = min(y.min(), predicted.min()), max(y.max(), predicted.max())
    if least < 0 or most >= labels:
        raise UserError(
            "classes",
            expected=f"indices of {labels} labels, 0 to {labels - 1}",
            found=f"{least} to {most}",
            next_step="give the labels that the head was trained on",
        )
