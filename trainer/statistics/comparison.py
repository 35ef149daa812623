"""The table of a comparison: every head against a baseline, or against each of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Shaped

from trainer.statistics.differences import difference
from trainer.statistics.estimates import RESAMPLES, Estimate, Figure, of_figure, of_rows
from trainer.statistics.mcnemar import mcnemar_over_seeds
from trainer.statistics.multiple import holm
from trainer.statistics.unsuitable import require_name, require_same

LEVEL = 0.05
SCHEMA: dict[str, Any] = {
    "head": pl.String,
    "baseline": pl.String,
    "seeds": pl.Int64,
    "rows": pl.Int64,
    "difference_points": pl.Float64,
    "low_points": pl.Float64,
    "high_points": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "mcnemar_p": pl.Float64,
    "better": pl.Boolean,
}
"""Columns of the table.

`seeds` is the smaller number of the two heads: with 1 the interval and p are about these very runs, and with more about
the heads trained again. Points are 100 × the figure. `better` is true or false where `p_holm` is below 0.05, and null
where the comparison does not tell.
"""

Right = Mapping[str, Bool[np.ndarray, "_ _"]]
"""Head → which answers are right, [seeds, rows]."""


def compare_accuracy(right: Right, baselines: list[str], paired_seeds: bool = False) -> pl.DataFrame:
    """Accuracies of all heads against each baseline's: one row per head but the baseline, columns as `SCHEMA`.

    Holm's correction is for the heads against one baseline. `paired_seeds`: see `difference`. Raises `UserError` for a
    baseline that is no head, and heads with other numbers of examples, or fewer than two.
    """
    _require(right, baselines)
    estimates = {name: of_rows(of_head, f"head '{name}'") for name, of_head in right.items()}
    return pl.concat(_table(estimates, baseline, right, paired_seeds) for baseline in baselines)


def compare_figure(
    predicted: Mapping[str, Shaped[np.ndarray, "_ _ ..."]],
    y: Shaped[np.ndarray, "rows ..."],
    figure: Figure,
    baselines: list[str],
    right: Right | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    paired_seeds: bool = False,
) -> pl.DataFrame:
    """Compares heads by any figure. `predicted` is head → predictions [seeds, rows, …]; `right` is for McNemar's test.

    `figure` is called `resamples` times for each seed of each head, however many baselines there are. Raises
    `UserError` as `compare_accuracy` and `of_figure` do.
    """
    _require(predicted, baselines)
    estimates = {
        name: of_figure(of_head, y, figure, f"head '{name}'", resamples, seed) for name, of_head in predicted.items()
    }
    return pl.concat(_table(estimates, baseline, right, paired_seeds) for baseline in baselines)


def _require(heads: Mapping[str, Shaped[np.ndarray, "_ _ ..."]], baselines: list[str]) -> None:
    for baseline in baselines:
        require_name(baseline, heads)
        for name, of_head in heads.items():
            require_same("predictions", heads[baseline].shape[1], of_head.shape[1], f"head '{name}'")


def _table(estimates: Mapping[str, Estimate], baseline: str, right: Right | None, paired: bool) -> pl.DataFrame:
    rows = [_row(name, baseline, estimates, right, paired) for name in estimates if name != baseline]
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
        row["better"] = row["difference_points"] > 0 if corrected < LEVEL else None
    return pl.DataFrame(rows, schema=SCHEMA)


def _row(
    name: str, baseline: str, estimates: Mapping[str, Estimate], right: Right | None, paired: bool
) -> dict[str, Any]:
    head, reference = estimates[name], estimates[baseline]
    found = difference(head, reference, paired_seeds=paired)
    return {
        "head": name,
        "baseline": baseline,
        "seeds": min(head.seeds, reference.seeds),
        "rows": head.rows,
        "difference_points": 100 * found.difference,
        "low_points": 100 * found.low,
        "high_points": 100 * found.high,
        "p": found.p,
        "mcnemar_p": None if right is None else mcnemar_over_seeds(right[name], right[baseline]),
    }
