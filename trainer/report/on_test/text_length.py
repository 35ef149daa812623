"""A head's test score on short and on long texts: quarters of the test examples by their characters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from ilse.core.tables import LABEL, PAIR_TEXT_ID, SCORE, TEXT_ID
from trainer.report.on_test.answered import PREDICTION, SEED, read_answers
from trainer.report.on_test.by_example import read_texts
from trainer.report.result_files import Row
from trainer.results.intervals import interval

PARTS = 4
LEAST = 20
"""Fewer test examples than this make no quarters."""


def by_length(results: Path, texts: Path | None, heads: Iterable[str], metric: str) -> list[Row]:
    """A row a head and quarter: `head`, `part` in words, `shortest`, `longest`, `rows`, `score`, `low` and `high`.

    Scores are means over seeds: of labels the share that is right, of scores Spearman's ρ where that is the `metric`.
    Intervals are those of `interval` at 95 %. Equally long texts are in one quarter, so there may be fewer. No rows
    where texts or predictions are missing, for other metrics, and where all texts are equally long.
    """
    if texts is None or not texts.is_file():
        return []
    found = []
    for head in dict.fromkeys(heads):
        path = results / "predictions" / f"{head}.parquet"
        if path.is_file():
            found += [{"head": head, **row} for row in _of_head(path, texts, metric)]
    return found


def _of_head(path: Path, texts: Path, metric: str) -> Iterator[Row]:
    table = read_answers(path)
    if LABEL in table.columns and metric in ("accuracy", "kappa"):
        metric = "accuracy"
    elif SCORE not in table.columns or metric != "spearman":
        return
    lengths = _lengths(table, texts)
    one = lengths.filter(table[SEED] == table[SEED].min())
    if len(one) < LEAST or one.null_count():
        return
    bounds = np.unique(np.quantile(one.to_numpy(), np.arange(1, PARTS) / PARTS, method="inverted_cdf"))
    parts = np.searchsorted(bounds, lengths.to_numpy(), side="left")
    if len(np.unique(parts)) < 2:
        return
    for part in np.unique(parts):
        rows = table.filter(parts == part)
        inside = lengths.filter(parts == part)
        seeds = [_score(of_seed, metric) for of_seed in rows.partition_by(SEED)]
        if not all(map(math.isfinite, seeds)):
            continue
        score, count = float(np.mean(seeds)), len(rows) // len(seeds)
        sure = interval(metric, score, count)
        shortest, longest = int(inside.min()), int(inside.max())  # type: ignore[arg-type]
        low, high = sure[1] if sure else (None, None)
        yield {
            "part": f"{shortest:,}" if shortest == longest else f"{shortest:,}–{longest:,}",
            "shortest": shortest, "longest": longest, "rows": count, "score": score, "low": low, "high": high,
        }  # fmt: skip


def _lengths(table: pl.DataFrame, texts: Path) -> pl.Series:
    """Characters of each row's text, of a pair those of both; null for a text that is not in the table."""
    known = read_texts(texts, table.unique(TEXT_ID if PAIR_TEXT_ID not in table.columns else [TEXT_ID, PAIR_TEXT_ID]))
    counted = pl.DataFrame({"id": list(known), "length": [len(text) for text in known.values()]},
                           schema={"id": pl.String, "length": pl.Int64})  # fmt: skip
    total = pl.lit(0, pl.Int64)
    for name in (name for name in (TEXT_ID, PAIR_TEXT_ID) if name in table.columns):
        table = table.join(counted.rename({"length": f"length of {name}"}), left_on=name, right_on="id", how="left",
                           maintain_order="left")  # fmt: skip
        total = total + pl.col(f"length of {name}")
    return table.select(total.alias("length")).to_series()


def _score(rows: pl.DataFrame, metric: str) -> float:
    if metric == "accuracy":
        return float((rows[LABEL] == rows[PREDICTION]).to_numpy().mean())
    if rows[SCORE].n_unique() < 2 or rows[PREDICTION].n_unique() < 2:
        return math.nan
    return float(stats.spearmanr(rows[SCORE], rows[PREDICTION]).statistic)
