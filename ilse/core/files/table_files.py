"""Reads tables at a path as it stands: Polars takes `*`, `?` and `[…]` in a path for a pattern, and `~` for the home.

`news [2024].parquet` is then another file, or none. Nothing else in the code hands a path to Polars' readers
(`tests/test_table_files.py`), and what is written is written to an absolute path.

A Parquet file of a few megabytes can claim 10⁹ values, which a reader then makes: what its metadata claim is compared
with its size first. A CSV file is plain text.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.bombs import MOST_PACKED, is_bomb

VALUE = 8
"""Bytes that a value takes in memory at least, about: a number, or a string's place."""
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
"""How gzip, Zstandard and zlib begin: Polars would unpack them without a bound."""


def scan_parquet(path: Path | str) -> pl.LazyFrame:
    """The Parquet file at `path`, read as it is asked for. Raises `UserError` for a bomb."""
    require_honest(path)
    return pl.scan_parquet(literal(path), glob=False)


def read_parquet(path: Path | str, columns: list[str] | None = None, values: int = 0) -> pl.DataFrame:
    """Reads the Parquet file at `path`: all rows, and all columns or those named.

    Raises `UserError` for a bomb; `values` are as many as the caller expects, however well they are packed.
    """
    require_honest(path, values)
    return pl.read_parquet(literal(path), columns=columns, glob=False)


def read_csv(path: Path | str, **options: Any) -> pl.DataFrame:
    """Reads the CSV file at `path`; the options are Polars'. Raises `UserError` for a compressed file."""
    with literal(path).open("rb") as file:
        if file.read(4).startswith(_PACKED):
            raise UserError(
                f"table {path}",
                expected="CSV as plain text",
                found="a packed file",
                next_step="write the file again, or unpack it",
            )
    return pl.read_csv(literal(path), glob=False, **options)


def require_honest(path: Path | str, values: int = 0) -> None:
    """Raises `UserError` for a Parquet file that claims more values than one of its size holds.

    A file that is none, or not there, passes: its reader says what is wrong with it.
    """
    place = literal(path)
    try:
        stat = place.stat()
    except OSError:
        return
    claimed = _claimed(place, stat.st_size, stat.st_mtime_ns)
    if is_bomb(VALUE * claimed, stat.st_size) and claimed > values:
        raise UserError(
            f"table {path}",
            expected=f"at most {MOST_PACKED} bytes per compressed byte",
            found=f"{claimed:,} values in a file of {stat.st_size:,} bytes",
            next_step="do not use this file, or write it again without packing",
        )


@lru_cache(maxsize=64)
def _claimed(path: Path, _size: int, _changed: int) -> int:
    """How many values a Parquet file says that it holds, those in lists too; 0 of one that is none."""
    try:
        import pyarrow.parquet as pq
    except ImportError:  # training alone goes without: rows are known then, and not what is in lists
        return _rows(path)
    try:
        found = pq.read_metadata(path)
        groups = [found.row_group(place) for place in range(found.num_row_groups)]
        held = sum(group.column(place).num_values for group in groups for place in range(group.num_columns))
    except Exception:  # of bytes that are no metadata: Arrow has many errors
        return 0
    return int(max(held, found.num_rows, *(group.num_rows for group in groups), 0))


def _rows(path: Path) -> int:
    try:
        return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError):
        return 0


def literal(path: Path | str) -> Path:
    """The path for a library that would take a first `~` for the home, or `s3:` for an object store."""
    return Path(path).absolute()
