"""The answers of a head to the test examples, as `ilse evaluate` leaves them: a Parquet table with checked columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.files.table_files import scan_parquet
from ilse.core.tables import LABEL, PAIR_TEXT_ID, SCORE, TEXT_ID
from trainer.results.result_tables import unreadable

SEED, PREDICTION, PROBABILITY = "seed", "prediction", "probability"
TARGETS: dict[str, dict[str, Any]] = {
    LABEL: {LABEL: pl.String, PREDICTION: pl.String},
    "labels": {"labels": pl.List(pl.String)},
    SCORE: {SCORE: pl.Float64, PREDICTION: pl.Float64},
}
"""By the column of the target: the types of it and of the answer, as far as the report looks at them."""
MAY: dict[str, Any] = {PROBABILITY: pl.Float32}
"""What an answer may have beside."""


def read_answers(path: Path) -> pl.DataFrame:
    """A row an example and seed: `seed`, text ids, columns of `TARGETS`, and those of `MAY` that are there.

    Raises `UserError` for other columns, missing cells, and seeds that did not answer the same examples.
    """
    try:
        lazy = scan_parquet(path)
        there = lazy.collect_schema().names()
        target = next((name for name in TARGETS if name in there), LABEL)
        columns = {SEED: pl.Int64, TEXT_ID: pl.String, PAIR_TEXT_ID: pl.String} | TARGETS[target]
        columns |= MAY
        columns = {name: kind for name, kind in columns.items() if name in there or name not in (PAIR_TEXT_ID, *MAY)}
        table = lazy.select(name for name in columns if name in there).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, "a parquet table", str(error).splitlines()[0][:200]) from error
    require_columns(path, table, columns)
    if table.is_empty():
        raise unreadable(path, "at least one row", "none")
    asked = [name for name in columns if name not in (SEED, PREDICTION, *MAY)]
    first, *others = (of_seed.select(asked) for of_seed in table.partition_by(SEED, maintain_order=True))
    if not all(first.equals(other) for other in others):
        raise unreadable(path, "the same examples in each seed", "others, or another order")
    return table


def require_columns(path: Path, table: pl.DataFrame, columns: Mapping[str, Any]) -> None:
    """Raises `UserError` that names the first column that is missing, of another type, or lacks a value."""
    for name, kind in columns.items():
        if name not in table.columns:
            raise unreadable(path, f"columns {', '.join(columns)}", f"no {name}")
        found = table[name].dtype
        numbers = (kind.is_integer() and found.is_integer()) or (kind.is_float() and found.is_numeric())
        if found != kind and not numbers:
            raise unreadable(path, f"column {name} of type {kind}", str(found))
        if table[name].null_count():
            raise unreadable(path, f"a value in every row of column {name}", f"{table[name].null_count()} without one")
