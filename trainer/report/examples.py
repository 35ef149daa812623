"""Test examples on which two heads differ, with their texts: what the gain consists of, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ilse.core.files.table_files import scan_parquet
from ilse.core.tables import LABEL, PAIR_TEXT_ID, TEXT, TEXT_ID
from trainer.report.answered import read_answers, require_columns
from trainer.report.result_files import Row
from trainer.results.result_tables import unreadable

GAINED, LOST = 12, 6
"""Examples shown: right where the other is wrong, and the other way round."""
CHARACTERS = 300
"""Longer texts are cut."""


@dataclass(frozen=True)
class Examples:
    """Rows with `text`, `pair_text` (or None), `label`, what either head answered most often, and in how many seeds
    each was right. `lacking` says why there are none.
    """

    gained: list[Row]
    lost: list[Row]
    counts: tuple[int, int] = (0, 0)
    """How many such examples there are."""
    lacking: str = ""


def differing(results: Path, texts: Path | None, head: str, other: str) -> Examples:
    """Examples that `head` answers rightly in most seeds and `other` does not, and the reverse.

    The clearest come first: those with the largest difference in the share of seeds that are right, then in the order
    of their text ids.
    """
    files = {name: results / "predictions" / f"{name}.parquet" for name in (head, other)}
    reason = _lacking(files, texts, head, other)
    if reason or texts is None:
        return Examples([], [], lacking=reason)
    ours, theirs = (_answers(path) for path in files.values())
    if ours is None or theirs is None:
        return Examples([], [], lacking="these examples have no single label")
    both = ours.join(theirs, on=["row", TEXT_ID, LABEL], suffix="_other")
    if not len(ours) == len(theirs) == len(both):
        expected = f"answers to the examples of {files[head].name}"
        raise unreadable(files[other], expected, f"{len(theirs)} examples, {len(both)} of them the same")
    apart = (pl.col("share") - pl.col("share_other")).abs()
    both = both.sort(apart, TEXT_ID, "row", descending=[True, False, False])
    gained = both.filter(pl.col("share") > 0.5, pl.col("share_other") < 0.5)
    lost = both.filter(pl.col("share") < 0.5, pl.col("share_other") > 0.5)
    first, second = gained.head(GAINED), lost.head(LOST)
    known = _texts(texts, pl.concat([first, second]))
    return Examples(_with_texts(first, known), _with_texts(second, known), (gained.height, lost.height))


def _lacking(files: Mapping[str, Path], texts: Path | None, head: str, other: str) -> str:
    if head == other:
        return f"{other} is the chosen head itself"
    if texts is None or not texts.is_file():
        return "the texts were not given: ‘ilse report --texts data/texts.parquet’ shows some"
    missing = [path for path in files.values() if not path.is_file()]
    return f"there is no file predictions/{missing[0].name}" if missing else ""


def _answers(path: Path) -> pl.DataFrame | None:
    """A row an example: `row`, text ids, label, the answer of most seeds, and in how many of `seeds` it is `right`."""
    table = read_answers(path)
    if LABEL not in table.columns:
        return None
    place = pl.int_range(pl.len()).over("seed").alias("row")  # the same text may be in two examples
    ids = [name for name in (TEXT_ID, PAIR_TEXT_ID) if name in table.columns]
    right = pl.col("prediction") == pl.col(LABEL)
    return (
        table.with_columns(place)
        .group_by("row", *ids, LABEL)
        .agg(
            pl.col("prediction").mode().sort().first(), right.sum().alias("right"),
            right.mean().alias("share"), pl.len().alias("seeds"),
        )
    )  # fmt: skip


def _texts(path: Path, rows: pl.DataFrame) -> dict[str, str]:
    ids = [value for name in (TEXT_ID, PAIR_TEXT_ID) if name in rows.columns for value in rows[name]]
    try:
        table = scan_parquet(path).filter(pl.col(TEXT_ID).is_in(ids)).select(TEXT_ID, TEXT).collect()
        require_columns(path, table, dict.fromkeys((TEXT_ID, TEXT), pl.String))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, f"columns {TEXT_ID}, {TEXT}", str(error).splitlines()[0]) from error
    return dict(table.iter_rows())


def _with_texts(rows: pl.DataFrame, texts: Mapping[str, str]) -> list[Row]:
    return [
        row
        | {"text": _short(texts.get(row[TEXT_ID]))}
        | {"pair_text": _short(texts.get(row[PAIR_TEXT_ID])) if PAIR_TEXT_ID in row else None}
        for row in rows.to_dicts()
    ]


def _short(text: str | None) -> str:
    if text is None:
        return "(a text that texts.parquet lacks)"
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1].rstrip() + "…"
