"""Reads CSV and TSV: a header, and rows of the same length. A stray quote that would swallow rows is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilse.core.errors import UserError
from pipeline.dataset.columns import malformed, require_columns
from pipeline.dataset.texts import LONGEST, too_long

AUTO = "auto"
NONE = "none"
QUOTE = '"'
LONGEST_ROW, MOST_LINES = 4 * LONGEST, 2**20
"""Characters and lines of one row."""
USUAL = (",", ";", "\t", "|")
"""Delimiters that are tried where a header has not the columns that are asked for."""


@dataclass(frozen=True)
class Dialect:
    r"""What tells the fields of a file apart, in the words of Polars and pandas.

    Parameters
    ----------
    delimiter
        One character, or `\t` in two; None goes by the format: a comma in CSV, a tab in TSV.
    quote_char
        One character; `none` where quotes are ordinary characters; `auto` is `"`, and a quoted field whose lines each
        look like a row is refused: a stray quote would swallow these rows without a word.
    option
        How messages call `quote_char`; `delimiter` has the same beginning.

    Raises
    ------
    ValueError
        For a delimiter or quote that is no single character, or where both are the same.
    """

    delimiter: str | None = None
    quote_char: str = AUTO
    option: str = "prepare.quote_char"

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", self.delimiter.replace(r"\t", "\t"))
            _require_character("delimiter", self.delimiter or "")
        if self.quote_char not in (AUTO, NONE):
            _require_character(f"quote_char, unless {AUTO} or {NONE}", self.quote_char)
        if self.delimiter is not None and self.delimiter == self.quote:
            raise ValueError("another delimiter than the quote_char")

    @property
    def quote(self) -> str | None:
        """The character, None where there is none."""
        return {AUTO: QUOTE, NONE: None}.get(self.quote_char, self.quote_char)

    @property
    def delimiter_option(self) -> str:
        """How messages call the delimiter."""
        return re.sub("quote.char", "delimiter", self.option)

    def of(self, kind: str) -> str:
        """The delimiter of a file of the format `kind`, csv or tsv."""
        return self.delimiter or ("\t" if kind == "tsv" else ",")

    @property
    def as_reader(self) -> dict[str, Any]:
        """Arguments of Python's reader."""
        return {"quotechar": self.quote, "quoting": csv.QUOTE_NONE if self.quote is None else csv.QUOTE_MINIMAL}


# Python's reader, not Polars': that one pads short rows with nulls, takes an unclosed quote for a text that ends with
# the file, and names no line. A million rows take two seconds here.
def delimited_rows(
    source: Iterable[str], file: Path | str, delimiter: str, dialect: Dialect = Dialect()
) -> Iterator[tuple[int, int, list[str]]]:
    """The header (empty where there is none) and every row, each of as many fields, with its first and last line.

    `source` are lines with their ends. Raises `UserError` for a row that is not well-formed, and for a stray quote.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 131,072 characters
    lines = _Lines(source)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, **dialect.as_reader)
    line = 0
    try:
        header = next(reader, [])
        yield 1, reader.line_num, header
        pattern = _Pattern(delimiter, len(header) - 1, "".join(lines.taken()))
        line = reader.line_num
        for row in reader:
            taken = lines.taken()
            if sum(map(len, taken)) > LONGEST:
                _require_short_fields(file, line + 1, header, row)
            if row and len(row) != len(header):
                raise malformed(file, line + 1, f"{len(header)} fields", f"{len(row)}")
            if len(taken) > 1 and dialect.quote_char == AUTO and pattern.is_of_all(taken):
                raise _swallowed(file, line + 1, reader.line_num, len(header), dialect)
            if row:
                yield line + 1, reader.line_num, row
            line = reader.line_num
    except csv.Error as error:
        raise _badly_quoted(file, line + 1, error, dialect) from error


def require_header(
    names: Iterable[str], header: list[str], file: Path | str, where: str, delimiter: str, dialect: Dialect
) -> None:
    """Raises `UserError` as `require_columns` does, or one that says what the file's delimiter seems to be."""
    wanted, line = list(names), delimiter.join(header)
    if all(name in header for name in wanted):
        return require_columns(wanted, header, file, where)
    if line.lower().startswith("sep="):
        next_step = "remove that line, which Excel alone reads"
        raise UserError(f"data set {file}", expected="a header", found=f"the line '{line}'", next_step=next_step)
    if "\0" in line:
        found, next_step = "NUL characters in the header", "name the file's encoding, such as utf-16-le"
        raise UserError(f"data set {file}", expected="a header of plain text", found=found, next_step=next_step)
    for other in (one for one in USUAL if one != delimiter):
        if set(wanted) <= {name.strip(f" {QUOTE}") for name in line.split(other)}:
            raise UserError(
                f"data set {file}",
                expected=f"columns with {_named(delimiter)} between them",
                found=f"the header {line[:200]!r}",
                next_step=f"set {dialect.delimiter_option} to {_named(other)}",
            )
    return require_columns(wanted, header, file, where)


class _Lines:
    """Hands lines on, and remembers those since it was last asked.

    Raises `csv.Error` for more of them than a row may have.
    """

    def __init__(self, source: Iterable[str]) -> None:
        self._source, self._taken, self._size = iter(source), list[str](), 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._source)
        self._taken.append(line)
        self._size += len(line)
        if self._size > LONGEST_ROW or len(self._taken) > MOST_LINES:
            raise csv.Error(f"a row of more than {LONGEST_ROW:,} characters or {MOST_LINES:,} lines")
        return line

    def taken(self) -> list[str]:
        taken, self._taken, self._size = self._taken, [], 0
        return taken


class _Pattern:
    """What a row looks like, if quotes mean nothing: as many delimiters as the header.

    Unless the header is written so, a comma or semicolon before white space belongs to a sentence.
    """

    def __init__(self, delimiter: str, count: int, header: str) -> None:
        self.delimiter, self.count = delimiter, count
        in_sentence = re.compile(re.escape(delimiter) + r"(?:\s|$)")
        self._prose = None if delimiter.isspace() or in_sentence.search(header.rstrip()) else in_sentence

    def is_of_all(self, lines: list[str]) -> bool:
        """Whether each of the lines could be a row; of a single column, where all could be, False."""
        rows = [line for line in lines if line.strip()]
        return self.count > 0 and len(rows) > 1 and all(map(self._is_row, rows))

    def _is_row(self, line: str) -> bool:
        return line.count(self.delimiter) == self.count and not (self._prose and self._prose.search(line))


def _require_short_fields(file: Path | str, line: int, header: list[str], row: list[str]) -> None:
    for name, field in zip(header, row, strict=False):
        if len(field) > LONGEST:
            raise too_long(f"data set {file}, line {line}, column '{name[:80]}'", len(field.encode(errors="replace")))


def _require_character(what: str, value: str) -> None:
    if len(value) != 1 or value in "\r\n\0":
        raise ValueError(f"one character as {what}")


def _named(character: str) -> str:
    return "a tab ('\\t')" if character == "\t" else f"'{character}'"


def _badly_quoted(file: Path | str, line: int, error: csv.Error, dialect: Dialect) -> UserError:
    never_closed = str(error) == "unexpected end of data"
    return malformed(
        file,
        line,
        "well-formed, properly quoted fields",
        "a quote that nothing closes" if never_closed else str(error),
        f"fix that line, or set {dialect.option} to none if quotes are ordinary characters in this file",
    )


def _swallowed(file: Path | str, first: int, last: int, fields: int, dialect: Dialect) -> UserError:
    return malformed(
        file,
        first,
        "a quoted field that ends before the next row begins",
        f"one over lines {first} to {last}, each of which has the {fields} fields of a row",
        f"set {dialect.option} to none if quotes are ordinary characters in this file, or to '{QUOTE}' if these lines "
        "are one field",
    )
