"""What the seeds of one head answer to each test example, taken together, and the examples' texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ilse.core.files.table_files import scan_parquet
from ilse.core.tables import LABEL, PAIR_TEXT_ID, TEXT, TEXT_ID
from trainer.report.on_test.answered import PREDICTION, PROBABILITY, SEED, read_answers, require_columns
from trainer.report.result_files import Row
from trainer.results.result_tables import unreadable

CHARACTERS = 300
"""Longer texts are cut."""


def by_example(path: Path) -> pl.DataFrame | None:
    """A row an example, in the file's order; None where examples have no single label.

    Columns: `row`, text ids, label, `prediction` (of most seeds), how many of `seeds` are `right`, their `share`, and
    `confidence`: the mean probability of that prediction over the seeds that made it, null without probabilities.
    """
    table = read_answers(path)
    if LABEL not in table.columns:
        return None
    if PROBABILITY not in table.columns:
        table = table.with_columns(pl.lit(None, pl.Float64).alias(PROBABILITY))
    place = pl.int_range(pl.len()).over(SEED).alias("row")  # the same text may be in two examples
    ids = [name for name in (TEXT_ID, PAIR_TEXT_ID) if name in table.columns]
    right, most = pl.col(PREDICTION) == pl.col(LABEL), pl.col(PREDICTION).mode().sort().first()
    return (
        table.with_columns(place)
        .group_by("row", *ids, LABEL)
        .agg(
            most, right.sum().alias("right"), right.mean().alias("share"), pl.len().alias("seeds"),
            pl.col(PROBABILITY).filter(pl.col(PREDICTION) == most).mean().alias("confidence"),
        )
        .sort("row")
    )  # fmt: skip


def with_texts(rows: pl.DataFrame, texts: Path) -> list[Row]:
    """The rows with `text` and `pair_text` (or None) of the table in `texts`, cut where they are long."""
    known = read_texts(texts, rows)
    return [
        row
        | {"text": _short(known.get(row[TEXT_ID]))}
        | {"pair_text": _short(known.get(row[PAIR_TEXT_ID])) if PAIR_TEXT_ID in row else None}
        for row in rows.to_dicts()
    ]


def read_texts(path: Path, rows: pl.DataFrame) -> Mapping[str, str]:
    """Text id → text, of the texts that the rows name. Raises `UserError` for a file that is no table of texts."""
    ids = [value for name in (TEXT_ID, PAIR_TEXT_ID) if name in rows.columns for value in rows[name]]
    try:
        table = scan_parquet(path).filter(pl.col(TEXT_ID).is_in(ids)).select(TEXT_ID, TEXT).collect()
        require_columns(path, table, dict.fromkeys((TEXT_ID, TEXT), pl.String))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, f"columns {TEXT_ID}, {TEXT}", str(error).splitlines()[0]) from error
    return dict(table.iter_rows())


def _short(text: str | None) -> str:
    if text is None:
        return "(a text that texts.parquet lacks)"
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1].rstrip() + "…"
