"""CSV and TSV: a stray quote loses no row without a word, and texts with line breaks stay whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from ilse.core.errors import UserError
from pipeline.dataset.delimited import Dialect, delimited_rows, require_header

STRAY = {
    "text first": ("tsv", 'text\tlabel\nfine\ta\n"Stop he said\tb\nin between\ta\nand left"\tb\nmore\ta\n', (3, 5)),
    "label first": ("csv", 'label,text\na,fine\nb,"Stop he said\na,in between\nb,and left"\na,more\n', (3, 5)),
    "inches": ("csv", 'label,text\na,"Stop he said\nb,a screen of 5"\na,more\n', (2, 3)),
    "empty lines": ("tsv", 'text\tlabel\n"Stop he said\tb\n\nand left"\tb\n', (2, 4)),
    "three columns": ("csv", 'id,text,label\n1,"Stop he said,b\n2,and left",a\n3,more,a\n', (2, 3)),
    "a comma before a space": ("csv", 'text, label\n"Stop he said, b\nand left", a\n', (2, 3)),
    "Windows' line ends": ("tsv", 'text\tlabel\r\n"Stop\tb\r\nand left"\tb\r\n', (2, 3)),
}
"""Name → format, content, and the lines that one field would swallow."""
WHOLE = {
    "line breaks": 'text,label\n"two\nlines",a\n"three\n\nlines",b\n',
    "sentences": 'text,label\n"Well, hello.\nThanks!",a\n"Shall I, or\nshall I not,\nsay",b\n',
    "label first": 'label,text\na,"two\nlines, and more"\nb,"x\ny"\n',
    "three columns": 'id,text,label\n1,"Great, he said\nand left, too",a\n',
    "other counts": 'text\tlabel\n"a table:\t1\t2\nb"\tx\n',
    "one column": 'text\n"two\nlines"\nb\n',
    "a doubled quote": 'text,label\n"he said ""no""\nand left",a\n',
}


def rows_of(content: str, kind: str = "csv", **dialect: Any) -> list[list[str]]:
    made = Dialect(**dialect)
    return [row for _, _, row in delimited_rows(io.StringIO(content, newline=""), "x", made.of(kind), made)][1:]


@pytest.mark.parametrize("name", STRAY)
def test_a_quote_that_swallows_rows_is_refused_with_its_lines(name: str) -> None:
    kind, content, (first, last) = STRAY[name]
    message = rf"data set x, line {first}\n.*\n.*one over lines {first} to {last}, .*\n.*prepare.quote_char to none"
    with pytest.raises(UserError, match=message):
        rows_of(content, kind)


@pytest.mark.parametrize("name", STRAY)
def test_what_the_error_tells_to_do_helps(name: str) -> None:
    kind, content, (first, last) = STRAY[name]
    filled = [line for line in content.splitlines() if line]
    quotes_are_ordinary = rows_of(content, kind, quote_char="none")
    assert ["\t".join(row) for row in quotes_are_ordinary] == [
        line.replace("," if kind == "csv" else "\t", "\t") for line in filled[1:]
    ]
    swallowed = last - first - content.count("\n\n")
    assert len(rows_of(content, kind, quote_char='"')) == len(quotes_are_ordinary) - swallowed


@pytest.mark.parametrize("name", WHOLE)
def test_texts_with_line_breaks_stay_whole(name: str) -> None:
    kind = "tsv" if "\t" in WHOLE[name] else "csv"
    found = rows_of(WHOLE[name], kind)
    assert found == rows_of(WHOLE[name], kind, quote_char='"')
    assert any("\n" in field for row in found for field in row)


def test_other_delimiters_and_quotes() -> None:
    assert rows_of("text;label\n'a;b';c\n", delimiter=";", quote_char="'") == [["a;b", "c"]]
    assert rows_of('text|label\n"a|b\n', delimiter="|", quote_char="none") == [['"a', "b"]]
    assert rows_of("text\tlabel\na,b\tc\n", delimiter=r"\t") == [["a,b", "c"]]


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        ({"delimiter": ""}, "one character as delimiter"),
        ({"delimiter": "||"}, "one character as delimiter"),
        ({"delimiter": "\n"}, "one character as delimiter"),
        ({"quote_char": "''"}, "one character as quote_char, unless auto or none"),
        ({"delimiter": '"'}, "another delimiter than the quote_char"),
    ],
)
def test_what_is_no_dialect(dialect: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dialect(**dialect)


@pytest.mark.parametrize(
    ("header", "delimiter", "message"),
    [
        (["text;label"], ",", r"columns with ',' between them\n.*'text;label'\n.*prepare.delimiter to ';'"),
        (["text,label"], "\t", r"columns with a tab .* between them\n.*\n.*prepare.delimiter to ','"),
        (["text\tlabel"], ",", r"prepare.delimiter to a tab \('\\t'\)"),
        (["sep=", ""], ",", r"a header\n  found:    the line 'sep=,'\n  next:     remove that line"),
        (["t\0e\0x\0t\0"], ",", r"NUL characters in the header\n.*utf-16-le"),
        (["text", "label", "text"], ",", r"one column 'text'\n  found:    2 of that name"),
        (["text", " label"], ",", r"a column 'label'\n(.|\n)*did you mean ' label'"),
    ],
)
def test_a_header_without_the_columns_says_why(header: list[str], delimiter: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_header(["text", "label"], header, Path("x"), "here", delimiter, Dialect())
