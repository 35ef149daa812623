"""Reads the texts to predict piece by piece, so that memory does not depend on the file's size.

| format        | a row is                                                                            |
|---------------|-------------------------------------------------------------------------------------|
| lines         | a line                                                                              |
| csv, tsv      | a row under a header, its texts in named columns; the file may be packed with gzip  |
| jsonl         | a JSON object a line, its texts under named keys; the file may be packed with gzip  |
| parquet       | a row, its texts in named columns; of a column, one batch of rows is decoded        |
| folder        | a file, at any depth; hidden ones are none                                          |
"""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from ilse.core.errors import MissingError, UserError
from ilse.core.tables import TEXT
from ilse.core.terminal import say
from pipeline.dataset.columns import PAIR_TEXT, malformed, require_columns
from pipeline.dataset.delimited import AUTO, LONGEST_ROW, Dialect, delimited_rows, require_header
from pipeline.dataset.jsonl import check_unicode, json_object
from pipeline.dataset.parquet import honest_batches, open_parquet, unreadable
from pipeline.dataset.readers import how_to_decode
from pipeline.dataset.sources import ENDINGS, ending_of
from pipeline.dataset.texts import LONGEST, Use, normalised, too_long

Format = Literal["lines", "csv", "tsv", "jsonl", "parquet", "folder"]
STANDARD = "-"
"""Names standard input."""
ROW, WHERE, ID = "row", "where", "id"
"""Columns in addition to the texts: the row's number, from 0; what an error calls it; its id in the source."""

Row = tuple[str, list[str | None]]
"""What an error calls a row, and its values, as `Fields.columns` names them."""


@dataclass(frozen=True)
class Fields:
    """Which columns are read and how; fields are named as in section `prepare`.

    `pair` is for heads on pairs of texts, `id` a column that is handed on to the output.
    """

    text: str = "text"
    pair: str | None = None
    id: str | None = None
    use: Use = "whole"
    encoding: str = "utf-8"
    delimiter: str | None = None
    quote_char: str = AUTO

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise _refused("option --encoding", "one that Python knows, as utf-8", self.encoding, "name it") from error
        try:
            Dialect(self.delimiter, self.quote_char)
        except ValueError as error:
            found = f"{self.delimiter!r} and {self.quote_char!r}"
            raise _refused("options --delimiter and --quote-char", str(error), found, "correct the option") from error

    @property
    def dialect(self) -> Dialect:
        """What tells the fields of CSV and TSV apart."""
        return Dialect(self.delimiter, self.quote_char, "--quote-char")

    @property
    def columns(self) -> dict[str, str]:
        """Our name of each column that is read → the source's."""
        named = {TEXT: self.text, PAIR_TEXT: self.pair, ID: self.id}
        return {ours: theirs for ours, theirs in named.items() if theirs is not None}


def format_of(source: str) -> Format:
    """Format by what is there, or by the file's ending; `lines` for any other."""
    path = Path(source)
    if source != STANDARD and path.is_dir():
        return "folder"
    return ENDINGS.get(ending_of(path).lower(), "lines")  # type: ignore[return-value]


def pieces(source: str, kind: Format, fields: Fields, size: int) -> Iterator[pl.DataFrame]:
    """The rows in their order, `size` at a time: columns `row`, `where`, the texts, normalised, and `id` if asked for.

    A text that is missing or blank is empty. Raises `UserError` for a source that is not there, is not of the format,
    or lacks a column; and for a row that is not well-formed.
    """
    rows, start = _short(_read(source, kind, fields)), 0
    names = [*fields.columns, *([ID] if kind == "folder" else [])]
    while piece := list(islice(rows, size)):
        columns = zip(*(values for _, values in piece), strict=True)
        given = {WHERE: [where for where, _ in piece], **dict(zip(names, columns, strict=True))}
        frame = pl.DataFrame(given, schema=dict.fromkeys(given, pl.String))
        texts = [normalised(pl.col(name), fields.use) for name in (TEXT, PAIR_TEXT) if name in given]
        yield frame.with_columns(pl.int_range(start, start + len(piece), dtype=pl.Int64).alias(ROW), *texts)
        start += len(piece)


def _short(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, unless a text is longer than one may be: many such are then not in memory at a time."""
    for where, values in rows:
        if longest := next((value for value in values if value is not None and len(value) > LONGEST), None):
            raise too_long(where, len(longest.encode(errors="replace")))
        yield where, values


def count(source: str, kind: Format) -> int | None:
    """How many rows there are, where the source says so without being read."""
    if kind == "parquet":
        with open_parquet(Path(source), []) as file:
            return int(file.metadata.num_rows)
    return len(files_in(Path(source))) if kind == "folder" else None


def files_in(folder: Path) -> list[str]:
    """The names of its files, at any depth, in the order in which they are read."""
    names = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def _read(source: str, kind: Format, fields: Fields) -> Iterator[Row]:
    if kind in ("lines", "folder") and len(fields.columns) > 1:
        asked = " and ".join(repr(name) for name in list(fields.columns.values())[1:])
        raise _refused(source, f"a table, for column {asked}", kind, "write it as CSV, or name it with --format")
    if source == STANDARD:
        if kind not in _OF_LINES:
            raise _refused("standard input", "lines, csv, tsv or jsonl", kind, "name the file with --input")
        return _OF_LINES[kind](_standard_input(fields.encoding), "standard input", fields)
    path = Path(source)
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        there, error = ("another kind", UserError) if path.exists() else ("nothing there", MissingError)
        what = "a folder of text files" if kind == "folder" else "a file of texts"
        raise error(f"input {source}", expected=what, found=there, next_step="name it, or - for standard input")
    if kind in _OF_LINES:
        return _OF_LINES[kind](_lines_of(path, fields.encoding), source, fields)
    return _folder(path, fields) if kind == "folder" else _rows_of_parquet(path, fields)


def _lines(lines: Iterable[str], source: str, _fields: Fields) -> Iterator[Row]:
    return ((f"{source}, line {number}", [line.rstrip("\r\n")]) for number, line in enumerate(lines, 1))


def _delimited(kind: str) -> Callable[[Iterable[str], str, Fields], Iterator[Row]]:
    def read(lines: Iterable[str], source: str, fields: Fields) -> Iterator[Row]:
        delimiter, long = fields.dialect.of(kind), list[int]()
        rows = delimited_rows(lines, source, delimiter, fields.dialect)
        _, _, header = next(rows)
        require_header(fields.columns.values(), header, source, _OPTIONS, delimiter, fields.dialect)
        places = [header.index(name) for name in fields.columns.values()]
        for line, last, row in rows:
            long += [line] if last > line else []
            yield f"{source}, line {line}", [row[place] for place in places]
        if long and len(header) == 1 and fields.quote_char == AUTO:
            _say_what_cannot_be_told(source, long)

    return read


def _say_what_cannot_be_told(source: str, long: list[int]) -> None:
    """Warns of what one column cannot show: long quoted lines may be rows that a stray quote has swallowed."""
    places = ", ".join(str(line) for line in long[:5]) + (", …" if len(long) > 5 else "")
    say(
        f"{source}: {len(long):,} quoted texts go over several lines (from line {places}); "
        "if quotes are ordinary characters there: --quote-char none"
    )


def _jsonl(lines: Iterable[str], source: str, fields: Fields) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = json_object(source, number, line)
            require_columns(fields.columns.values(), list(record), f"{source}, line {number}", _OPTIONS)
            values = [_string(record[theirs], ours, source, number) for ours, theirs in fields.columns.items()]
            yield f"{source}, line {number}", values


def _string(value: Any, name: str, source: str, line: int) -> str | None:
    if name == ID and isinstance(value, int):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise malformed(source, line, f"a string as {name}", f"a JSON {type(value).__name__}")
    check_unicode(name, value, source, line)
    return value


def _rows_of_parquet(path: Path, fields: Fields) -> Iterator[Row]:
    names = list(fields.columns.values())
    with open_parquet(path, names) as file:
        require_columns(names, file.schema_arrow.names, path, _OPTIONS)
        for ours, theirs in fields.columns.items():
            _require_strings(path, ours, theirs, file.schema_arrow.field(theirs).type)
        number = 0
        for batch in honest_batches(path, file, list(dict.fromkeys(names)), _BATCH):
            columns = [batch.column(name).cast(pa.string()).to_pylist() for name in names]
            for values in zip(*columns, strict=True):
                yield f"{path}, row {number}", list(values)
                number += 1


def _require_strings(path: Path, ours: str, theirs: str, kind: pa.DataType) -> None:
    value, is_a = kind.value_type if pa.types.is_dictionary(kind) else kind, pa.types
    if not (is_a.is_string(value) or is_a.is_large_string(value) or (ours == ID and is_a.is_integer(value))):
        next_step = f"name another column {_OPTIONS}"
        raise _refused(f"data set {path}, {theirs}", "a column of strings", str(kind), next_step)


def _folder(path: Path, fields: Fields) -> Iterator[Row]:
    for name in files_in(path):
        yield f"{path}/{name}", [_whole(path / name, fields.encoding), name]


def _whole(file: Path, encoding: str) -> str:
    """A file's text; of one that is longer than a text may be, a little more than may be."""
    lines, size = list[str](), 0
    for line in _lines_of(file, encoding):
        lines.append(line)
        size += len(line)
        if size > LONGEST:
            break
    return "".join(lines)


def _standard_input(encoding: str) -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):  # as the terminal's language has it, otherwise
        sys.stdin.reconfigure(encoding=encoding, newline="")
    return _decoded(sys.stdin, "standard input")


def _lines_of(path: Path, encoding: str) -> Iterator[str]:
    """Lines with their ends, decoded strictly, without a byte-order mark."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # gzip's mark; no text begins with it
    read: Callable[..., Any] = gzip.open if packed else open
    with read(path, "rt", encoding=encoding, newline="") as lines:
        yield from _decoded(lines, str(path))


def _decoded(lines: Any, source: str) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_ROW + 1), ""), 1):
            if len(line) > LONGEST_ROW:
                where, longest = f"data set {source}, line {number}", f"at most {LONGEST_ROW:,} characters"
                raise _refused(where, longest, "more", "leave the line out, or name another format with --format")
            yield line.lstrip("\ufeff") if number == 1 else line
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} behind line {number}"
        data = error.object if number == 0 else b""
        next_step = how_to_decode(data, "--encoding", "name its encoding with --encoding")
        raise _refused(f"data set {source}", f"text encoded in {error.encoding}", found, next_step) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise unreadable(source, "a whole gzip file", error) from error


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)


_OPTIONS = "with --text-column, --text-pair-column or --id-column"
_BATCH = 1024
"""Rows of a Parquet file that are decoded at a time."""
_OF_LINES: dict[Format, Callable[[Iterable[str], str, Fields], Iterator[Row]]] = {
    "lines": _lines,
    "csv": _delimited("csv"),
    "tsv": _delimited("tsv"),
    "jsonl": _jsonl,
}
