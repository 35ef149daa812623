"""Readers of one file, a format each: its rows as the columns text, target and, where asked for, text_pair and split.

A mistake in a file is a `UserError` that names the file and the line, row or byte.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ilse.errors import UserError
from ilse.tables import SPLIT, TEXT
from pipeline.archives import gunzip, open_archive, safe_members
from pipeline.dataset.columns import PAIR_TEXT, TARGET, Columns, malformed, wanted_of
from pipeline.dataset.jsonl import read_jsonl


@dataclass
class Decoder:
    """Strict decoding with one stated exception: whole files that only the fallback can read, which are recorded."""

    encoding: str = "utf-8"
    fallback: str | None = None
    fallen_back: list[str] = field(default_factory=list)

    def __call__(self, data: bytes, where: str) -> str:
        """The text of one file, without a byte-order mark; `UserError` with the offset of the first wrong byte."""
        try:
            return data.decode(self.encoding).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            if self.fallback is not None:
                self.fallen_back.append(where)
                return Decoder(self.fallback)(data, where)
            raise UserError(
                where,
                expected=f"text encoded in {self.encoding}",
                found=f"byte 0x{data[error.start]:02x} at offset {error.start}",
                next_step="convert the file, name its encoding as prepare.encoding, or name the encoding of single "
                "odd files as prepare.fallback_encoding",
            ) from error


def read_file(file: Path, kind: str, columns: Columns, decode: Decoder) -> pl.DataFrame:
    """The rows of one file of the format `kind` (csv, tsv, jsonl, parquet or folder), in the file's order.

    Text formats may be packed with gzip.
    """
    if kind == "parquet":
        return _read_parquet(file, columns)
    if kind == "folder":
        _check_folder_will_do(file, columns)
        return _read_folder(file, decode)
    text = decode(_plain(file), str(file))
    if kind == "jsonl":
        return read_jsonl(file, text, columns)
    return _read_delimited(file, text, "\t" if kind == "tsv" else ",", columns)


def _plain(file: Path) -> bytes:
    data = file.read_bytes()
    if not data.startswith(b"\x1f\x8b"):  # gzip's mark; no text begins with it
        return data
    try:
        return gunzip(data)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(str(file), "a whole gzip file", error) from error


def _read_parquet(file: Path, columns: Columns) -> pl.DataFrame:
    try:
        lazy = pl.scan_parquet(file)
        wanted = wanted_of(columns, lazy.collect_schema().names(), file)
        frame = lazy.select(pl.col(theirs).alias(ours) for ours, theirs in wanted.items()).collect()
    except pl.exceptions.PolarsError as error:
        raise unreadable(str(file), "a Parquet file", error) from error
    return _with_strings(frame, file)


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


def unreadable(where: str, expected: str, error: Exception) -> UserError:
    """The error for a file that is not what its name says."""
    found = " ".join(str(error).split())[:200]
    return UserError(f"data set {where}", expected=expected, found=found, next_step="write the file again, or fetch it")


def _read_delimited(file: Path, text: str, delimiter: str, columns: Columns) -> pl.DataFrame:
    """CSV or TSV with a header; fields may be quoted and hold line breaks."""
    rows = delimited_rows(io.StringIO(text, newline=""), file, delimiter)
    _, header = next(rows)
    wanted = wanted_of(columns, header, file)
    places = [header.index(name) for name in wanted.values()]
    kept = [[row[place] for place in places] for _, row in rows]
    return pl.DataFrame(kept, schema=dict.fromkeys(wanted, pl.String), orient="row")


# Python's reader, not Polars': that one pads short rows with nulls, takes an unclosed quote for a text that ends with
# the file, and names no line. A million rows take two seconds here.
def delimited_rows(source: Iterable[str], file: Path | str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The header (empty where there is none) and every row, each of as many fields, with the line it begins in.

    `source` are lines with their ends. Raises `UserError` for a row that is not well-formed.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 131,072 characters
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    line = 0
    try:
        header = next(reader, [])
        yield 1, header
        line = reader.line_num
        for row in reader:
            if row and len(row) != len(header):
                raise malformed(file, line + 1, f"{len(header)} fields", f"{len(row)}")
            if row:
                yield line + 1, row
            line = reader.line_num
    except csv.Error as error:
        raise malformed(file, line + 1, "well-formed, properly quoted fields", str(error)) from error


def _check_folder_will_do(path: Path, columns: Columns) -> None:
    keys = {"prepare.text_pair_column": columns.pair, "prepare.labels_column": columns.several}
    for key in (key for key, asked in keys.items() if asked):
        raise UserError(
            f"data set {path}",
            expected=f"a table, for {key}",
            found="a folder of text files, which hold one text and one label each",
            next_step=f"write the data as CSV, TSV, JSONL or Parquet, or remove {key}",
        )


def _read_folder(path: Path, decode: Decoder) -> pl.DataFrame:
    """One sub-folder a label, one text a file, sorted by path; a directory, or a zip of one."""
    labels, texts = [], []
    for name, data in _zip_files(path) if path.is_file() else _directory_files(path):
        labels.append(name.split("/")[0])
        texts.append(decode(data, f"{path}/{name}"))
    if not texts:
        raise UserError(
            f"data set {path}",
            expected="one sub-folder a label, with text files in it",
            found="no file in a sub-folder",
            next_step="check prepare.path and prepare.format",
        )
    return pl.DataFrame({TEXT: texts, TARGET: labels})


def _directory_files(path: Path) -> Iterator[tuple[str, bytes]]:
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return ((name, (path / name).read_bytes()) for name in names if _is_example(name))


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_archive(path) as archive:
        for info in safe_members(archive):
            if _is_example(info.filename):
                yield info.filename, archive.read(info)


def _is_example(name: str) -> bool:
    parts = name.split("/")
    return len(parts) > 1 and not any(part.startswith((".", "__MACOSX")) for part in parts)
