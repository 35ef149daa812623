"""Reads Parquet. The bytes of strings are counted first, as a dictionary may hold once what a column repeats a million
times.

A file of a megabyte can so hold terabytes of text. Arrow reads a dictionary as one, so that counting makes none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ilse.core.errors import UserError
from ilse.core.files.bombs import MOST_PACKED, is_bomb
from ilse.core.files.table_files import literal, require_honest, scan_parquet
from ilse.core.tables import SPLIT, TEXT
from pipeline.dataset.columns import PAIR_TEXT, Columns, wanted_of
from pipeline.dataset.texts import LONGEST, too_long

BATCH = 8192
"""Rows that are counted at a time."""


def read_parquet_rows(file: Path, columns: Columns) -> pl.DataFrame:
    """The wanted columns by our names. Raises `UserError` for a file that is none, lacks one, or is a bomb."""
    try:
        lazy = scan_parquet(file)
        wanted = wanted_of(columns, lazy.collect_schema().names(), file)
        require_honest_strings(file, list(wanted.values()))
        frame = lazy.select(pl.col(theirs).alias(ours) for ours, theirs in wanted.items()).collect()
    except pl.exceptions.PolarsError as error:
        raise unreadable(str(file), "a Parquet file", error) from error
    return _with_strings(frame, file)


def open_parquet(file: Path, names: list[str]) -> pq.ParquetFile:
    """The file, whose strings in these columns are read as dictionaries.

    Raises `UserError` for a file that is none, or that claims more values than one of its size holds.
    """
    require_honest(file)
    try:
        with pq.ParquetFile(literal(file)) as plain:
            columns = [plain.schema.column(place) for place in range(len(plain.schema))]
        strings = [c.path for c in columns if c.path.split(".")[0] in names and c.physical_type == "BYTE_ARRAY"]
        return pq.ParquetFile(literal(file), read_dictionary=strings)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(str(file), "a Parquet file", error) from error


def honest_batches(file: Path, parquet: pq.ParquetFile, names: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Reads a file opened by `open_parquet` in batches of `rows` rows.

    Raises `UserError` for a string longer than a text may be, with its row and column, and for a bomb.
    """
    size, total, row = file.stat().st_size, 0, 0
    for batch in parquet.iter_batches(rows, columns=names, use_threads=False):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if (lengths := _byte_lengths(column)) is None:
                continue
            total += pc.sum(lengths).as_py() or 0
            if (longest := pc.max(lengths).as_py() or 0) > LONGEST:
                place = pc.index(lengths, longest).as_py() if len(lengths) == len(column) else 0
                raise too_long(f"data set {file}, row {row + place} (from 0), {name}", longest)
        if is_bomb(total, size):
            raise UserError(
                f"data set {file}",
                expected=f"at most {MOST_PACKED} bytes per compressed byte",
                found=f"{total:,} bytes or more in the first {row + len(batch):,} rows, in a file of {size:,}",
                next_step="do not use this file, or write it again without packing",
            )
        row += len(batch)
        yield batch


def require_honest_strings(file: Path, names: list[str]) -> None:
    """Raises `UserError` as `honest_batches` does; a file that can't be read passes: its reader says why."""
    try:
        with open_parquet(file, names) as parquet:
            if _may_be_a_bomb(parquet.metadata, file.stat().st_size):
                for _ in honest_batches(file, parquet, names, BATCH):
                    pass
    except (pa.ArrowException, OSError):
        return


def unreadable(where: str, expected: str, error: Exception) -> UserError:
    """The error for a file that is not what its name says."""
    found = " ".join(str(error).split())[:200]
    return UserError(f"data set {where}", expected=expected, found=found, next_step="write the file again, or fetch it")


def _may_be_a_bomb(facts: Any, size: int) -> bool:
    """Whether the file could be one if each of its rows held all that its part of the file holds."""
    groups = [facts.row_group(place) for place in range(facts.num_row_groups)]
    return is_bomb(sum(group.num_rows * group.total_byte_size for group in groups), size)


def _byte_lengths(column: pa.Array) -> pa.Array | None:
    """Bytes of each string in a column of strings or of lists of strings; None for other columns."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    if pa.types.is_dictionary(column.type):
        lengths = _byte_lengths(column.dictionary)
        return None if lengths is None else pc.take(lengths, column.indices)
    is_a = pa.types
    known = (is_a.is_string, is_a.is_large_string, is_a.is_binary, is_a.is_large_binary)
    return pc.binary_length(column).cast(pa.int64()) if any(one(column.type) for one in known) else None


def _with_strings(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    for name in (name for name in (TEXT, PAIR_TEXT, SPLIT) if name in frame.columns):
        if frame[name].dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            raise UserError(
                f"data set {file}, {name}",
                expected="a column of strings",
                found=f"{frame[name].dtype}",
                next_step=f"name another column as prepare.{name}_column",
            )
        frame = frame.with_columns(pl.col(name).cast(pl.String))
    return frame
