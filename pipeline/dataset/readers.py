"""Readers of single files, one per format: rows with the columns text, target and, on request, text_pair and split.

A mistake in a file is a `UserError` that names the file and the line, row or byte.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ilse.core.errors import UserError
from ilse.core.tables import TEXT
from pipeline.dataset.columns import TARGET, Columns, names_of
from pipeline.dataset.delimited import Dialect, delimited_rows, require_header
from pipeline.dataset.jsonl import read_jsonl
from pipeline.dataset.parquet import read_parquet_rows, unreadable
from pipeline.fetching.archives import gunzip, open_archive, safe_members

_PACKED = b"\x1f\x8b"
"""Gzip's mark; no text begins with it."""


@dataclass
class Decoder:
    """Strict decoding with one stated exception: whole files that only the fallback can read, which are recorded."""

    encoding: str = "utf-8"
    fallback: str | None = None
    fallen_back: list[str] = field(default_factory=list)

    def __call__(self, data: bytes, where: str) -> str:
        """The text of one file, without a byte-order mark; `UserError` with the offset of the first wrong byte."""
        try:
            return data.decode(self.encoding).lstrip("\ufeff")  # some programs write a second one
        except UnicodeDecodeError as error:
            if self.fallback is not None:
                self.fallen_back.append(where)
                return Decoder(self.fallback)(data, where)
            raise UserError(
                where,
                expected=f"text encoded in {self.encoding}",
                found=f"byte 0x{data[error.start]:02x} at offset {error.start}",
                next_step=how_to_decode(
                    data,
                    "prepare.encoding",
                    "convert the file, name its encoding as prepare.encoding, or name the encoding of single odd files "
                    "as prepare.fallback_encoding",
                ),
            ) from error


def how_to_decode(data: bytes, option: str, otherwise: str) -> str:
    """What to do about a file that begins with `data`, which is not of the encoding that `option` names."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"set {option} to utf-16"
    return "unpack the file once: it is packed with gzip twice" if data.startswith(_PACKED) else otherwise


def read_file(
    file: Path,
    kind: str,
    columns: Columns,
    decode: Decoder,
    dialect: Dialect = Dialect(),  # noqa: B008
) -> pl.DataFrame:
    """The rows of one file of the format `kind` (csv, tsv, jsonl, parquet or folder), in the file's order.

    Text formats may be packed with gzip.
    """
    if kind == "parquet":
        return read_parquet_rows(file, columns)
    if kind == "folder":
        _check_folder_will_do(file, columns)
        return _read_folder(file, decode)
    text = decode(_plain(file), str(file))
    if kind == "jsonl":
        return read_jsonl(file, text, columns)
    return _read_delimited(file, text, kind, columns, dialect)


def _plain(file: Path) -> bytes:
    data = file.read_bytes()
    if not data.startswith(_PACKED):
        return data
    try:
        return gunzip(data)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(str(file), "a whole gzip file", error) from error


def _read_delimited(file: Path, text: str, kind: str, columns: Columns, dialect: Dialect) -> pl.DataFrame:
    """CSV or TSV with a header; fields may be quoted and hold line breaks."""
    delimiter = dialect.of(kind)
    rows = delimited_rows(io.StringIO(text, newline=""), file, delimiter, dialect)
    _, _, header = next(rows)
    wanted = names_of(columns)
    require_header(wanted.values(), header, file, "in params.yaml", delimiter, dialect)
    places = [header.index(name) for name in wanted.values()]
    kept = [[row[place] for place in places] for _, _, row in rows]
    return pl.DataFrame(kept, schema=dict.fromkeys(wanted, pl.String), orient="row")


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
