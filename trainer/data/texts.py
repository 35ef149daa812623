"""The texts of examples, for what reads words and no rows of a cache."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ilse.core.errors import MissingError, UserError
from ilse.core.files.table_files import read_parquet
from ilse.core.tables import TEXT, TEXT_ID


def texts_of(table: Path, ids: pl.DataFrame) -> list[list[str]]:
    """For each column of `ids` (one, or two of pairs) the examples' texts in order, from a `texts.parquet`.

    Raises `UserError` for a table that is missing, unreadable, without its columns, or without some of the texts.
    """
    if not table.is_file():
        raise _refused(table, "the table that 'ilse prepare' writes", "no such file", MissingError)
    columns = f"columns {TEXT_ID}, {TEXT}"
    try:
        texts = read_parquet(table, columns=[TEXT_ID, TEXT])
    except pl.exceptions.PolarsError as error:
        raise _refused(table, f"a Parquet table with {columns}", str(error).splitlines()[0]) from error
    found = [
        pl.DataFrame({TEXT_ID: column}).join(texts, on=TEXT_ID, how="left", maintain_order="left")[TEXT]
        for column in ids.iter_columns()
    ]
    if missing := max(column.null_count() for column in found):
        raise _refused(table, "the texts of all examples", f"{missing} of {len(ids)} examples whose text is not in it")
    return [column.to_list() for column in found]


def _refused(table: Path, expected: str, found: str, kind: type[UserError] = UserError) -> UserError:
    return kind(
        f"texts {table}", expected=expected, found=found, next_step="run 'ilse prepare' again, or name it with --texts"
    )
