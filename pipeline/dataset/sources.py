"""Finds the files of a data set, whatever its format and layout, and reads them into one table in a fixed order.

Columns: `source_row` (Int64, the position in its file or, where several files make up a split, in their
concatenation), `text` and, for pairs, `text_pair` (String), `target` (a label, String, several, List(String), or a
score, Float64) and `split` (String, null in every row where the source gives none).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from ilse.core.errors import MissingError, UserError
from ilse.core.tables import SOURCE_ROW, SPLIT, TEXT
from pipeline.dataset.columns import PAIR_TEXT, TARGET, Columns
from pipeline.dataset.delimited import Dialect
from pipeline.dataset.readers import Decoder, read_file
from pipeline.dataset.splits import KEEPING, SPLIT_NAMES, split_name
from pipeline.dataset.texts import require_short
from pipeline.fetching.archives import open_archive

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "folder", "hub"]

_PLAIN = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_TABLES = {".parquet": "parquet"} | _PLAIN | {f"{ending}.gz": kind for ending, kind in _PLAIN.items()}
# The Hub's data sets call lines of objects so too; in a folder, only with a split's name: others are metadata.
_JSON = {".json": "jsonl"}
ENDINGS = _TABLES | {".zip": "folder"} | _JSON
"""How a file's name ends → its format."""
# `train.parquet`, `train-00000-of-00002.parquet`, but not `train_extra.parquet`
_SPLIT_FILE = re.compile(rf"^({'|'.join(SPLIT_NAMES)})([-_.]\d.*)?$")


class _Part(NamedTuple):
    """The files of one split (or of all, when `split` is None), to be read in this order."""

    split: str | None
    kind: str
    files: list[Path]


def read_source(
    path: str | Mapping[str, str],
    kind: Format,
    columns: Columns,
    decode: Decoder,
    as_target: Callable[[pl.Series, str], pl.Series],
    dialect: Dialect = Dialect(),  # noqa: B008
) -> pl.DataFrame:
    """The rows of the data set at `path`: a file, a folder, or one of them for each split.

    `as_target` turns a file's column of labels or scores into ours; it gets the column and the file's name.
    Given splits are read test first and train last: rows appended to train then come after all others.
    """
    read = functools.partial(read_file, columns=columns, decode=decode, dialect=dialect)
    rows = pl.concat([_read_part(part, read, as_target) for part in _parts(path, kind)])
    if rows.is_empty():
        raise UserError(f"data set {path}", expected="at least one row", found="none", next_step="check prepare.path")
    return with_split_names(rows, columns.split)


def _read_part(
    part: _Part, read: Callable[[Path, str], pl.DataFrame], as_target: Callable[[pl.Series, str], pl.Series]
) -> pl.DataFrame:
    tables = [read(file, part.kind) for file in part.files]
    for table, file in zip(tables, part.files, strict=True):
        require_short(table, f"data set {file}")
    # Before the files are joined: labels may be numbers in one file and words in the next.
    targets = [as_target(table[TARGET], str(file)) for table, file in zip(tables, part.files, strict=True)]
    frame = pl.concat([table.with_columns(target.alias(TARGET)) for table, target in zip(tables, targets, strict=True)])
    if part.split is not None or SPLIT not in frame.columns:
        frame = frame.with_columns(pl.lit(part.split, dtype=pl.String).alias(SPLIT))
    row = pl.int_range(pl.len(), dtype=pl.Int64).alias(SOURCE_ROW)
    texts = [pl.col(name).cast(pl.String) for name in (TEXT, PAIR_TEXT) if name in frame.columns]
    return frame.select(row, *texts, TARGET, pl.col(SPLIT).cast(pl.String))


def _parts(path: str | Mapping[str, str], kind: Format) -> Iterator[_Part]:
    if isinstance(path, str):
        yield from _parts_of(Path(path), kind)
        return
    given = {split_name(name, "prepare.path"): Path(place) for name, place in path.items()}
    for split in (name for name in KEEPING if name in given):
        for part in _parts_of(given[split], kind):
            if part.split is None or part.split == split:
                yield part._replace(split=split)


def _parts_of(path: Path, kind: Format) -> list[_Part]:
    if not path.exists():
        raise MissingError(
            f"data set {path}",
            expected="a file or folder",
            found="nothing there",
            next_step="check prepare.path (relative to the project's root), or run ilse fetch first",
        )
    chosen = _recognise(path) if kind == "auto" else kind
    if chosen == "hub":
        return _hub_parts(path)
    if chosen == "folder" or path.is_file():
        return [_Part(None, chosen, [path])]
    files = sorted(file for file in path.rglob("*") if _TABLES.get(ending_of(file)) == chosen)
    if not files:
        raise _no_files(path, f"{chosen} files")
    return [_Part(None, chosen, files)]


def _recognise(path: Path) -> str:
    if path.is_dir():
        files = sorted(path.rglob("*"))
        tables = [file for file in files if ending_of(file) in _TABLES]
        if not tables and any(file.suffix == ".arrow" for file in files):
            raise _unread(path, "files of datasets.save_to_disk", "write each split with its to_parquet")
        if any(_split_of(file) for file in files if ending_of(file) in _TABLES | _JSON):
            return "hub"
        return _TABLES[ending_of(tables[0])] if tables else "folder"
    ending = ending_of(path).lower()
    if ending not in ENDINGS:
        raise UserError(
            f"data set {path}",
            expected=f"a folder, or a file that ends in {', '.join(ENDINGS)}",
            found=f"the ending '{ending_of(path)}'",
            next_step="name its format as prepare.format",
        )
    if ENDINGS[ending] == "folder":
        _require_no_tables(path)
    return ENDINGS[ending]


def _require_no_tables(path: Path) -> None:
    with open_archive(path) as archive:
        tables = sorted(name for name in archive.namelist() if ending_of(Path(name)).lower() in _TABLES)
    if tables:
        raise _unread(path, f"the table {tables[0]}", "unpack it, and name the table as prepare.path")


def _unread(path: Path, found: str, next_step: str) -> UserError:
    expected = "a table, or a folder or zip file of texts by label"
    return UserError(f"data set {path}", expected=expected, found=found, next_step=next_step)


def ending_of(file: Path) -> str:
    """`.jsonl`, or `.jsonl.gz`."""
    return "".join(file.suffixes[-2:]) if file.suffix.lower() == ".gz" else file.suffix


def _split_of(file: Path) -> str | None:
    """`data/train-00000-of-00001.parquet` and `default/train/0000.parquet` both belong to train."""
    own = file.name.removesuffix(ending_of(file))
    for name in (own,) if ending_of(file) in _JSON else (own, file.parent.name):
        if match := _SPLIT_FILE.match(name.lower()):
            return split_name(match[1], str(file))
    return None


def _hub_parts(path: Path) -> list[_Part]:
    """A snapshot's files by split; Parquet where the snapshot holds several formats."""
    for ending, kind in (_TABLES | _JSON).items():
        found = [file for file in sorted(path.rglob(f"*{ending}")) if _split_of(file)]
        if found:
            parts = [_Part(name, kind, [file for file in found if _split_of(file) == name]) for name in KEEPING]
            return [_in_one_folder(part) for part in parts if part.files]
    raise _no_files(path, "files named by split, such as train-00000-of-00001.parquet or test.jsonl")


def _in_one_folder(part: _Part) -> _Part:
    folders = sorted({str(file.parent) for file in part.files})
    if len(folders) > 1:
        raise UserError(
            f"split {part.split}",
            expected="files of one folder",
            found=f"files in {', '.join(folders[:4])}",
            next_step="name one configuration's folder as prepare.path, or give a path for each split",
        )
    return part


def _no_files(path: Path, expected: str) -> UserError:
    return UserError(f"data set {path}", expected=expected, found="none below it", next_step="check prepare.format")


def with_split_names(rows: pl.DataFrame, column: str | None) -> pl.DataFrame:
    """The rows with the usual names of splits made ours; `column` is where they stood, for messages."""
    names = rows[SPLIT].unique().to_list()
    if names == [None]:
        return rows
    where = f"column '{column}'" if column else "the data set's splits"
    mapping = {name: split_name(name or "", where) for name in names}
    return rows.with_columns(pl.col(SPLIT).replace_strict(mapping, return_dtype=pl.String))
