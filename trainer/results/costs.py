"""Total costs of heads and controls: extraction and training of a head against training alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

WITHOUT_CACHE = ("lora", "majority", "words")
"""Entries of an evaluation that read no cache, and so need no extraction."""

FIGURES = frozenset({"texts", "texts_computed", "tokens", "tokens_per_second", "seconds"})
"""Figures of an extraction that its cost follows from."""


def cost_table(
    runs: pl.DataFrame, extraction: Mapping[str, Any], without_cache: Collection[str] = WITHOUT_CACHE
) -> pl.DataFrame:
    """A row for each head of `runs` (`results/runs.csv`), in its order: seconds of one seed, the median.

    `extraction` are the figures in `data/extract.json`. Columns: `head`, `parameters` (trained), `extract_seconds` (0
    for `without_cache`), `train_seconds`, `total_seconds` and `test_score`, its mean. One extraction serves all heads
    and seeds, and every later task over the same texts; each total bears all of it nonetheless. Where it is unknown, so
    are `extract_seconds` and `total_seconds`: null.
    """
    seconds = pl.lit(extraction_seconds(extraction), dtype=pl.Float64)
    of_head = runs.group_by("head", maintain_order=True).agg(
        pl.col("parameters").first(), pl.col("train_seconds").median(), pl.col("test_score").mean()
    )
    extract = pl.when(pl.col("head").is_in(list(without_cache))).then(0.0).otherwise(seconds)
    return of_head.select(
        "head",
        "parameters",
        extract.alias("extract_seconds"),
        "train_seconds",
        (extract + pl.col("train_seconds")).alias("total_seconds"),
        "test_score",
    )


def extraction_seconds(extraction: Mapping[str, Any]) -> float | None:
    """Seconds of extracting all texts.

    A run that reused rows took less: then it is all tokens at that run's speed, or None where it computed nothing.
    """
    if extraction["texts_computed"] == extraction["texts"]:
        return float(extraction["seconds"])
    speed = extraction["tokens_per_second"]
    return extraction["tokens"] / speed if speed else None
