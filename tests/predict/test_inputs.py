"""Every format gives the same rows, a piece at a time; what is not well-formed is named by its place."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ilse.core.errors import UserError
from ilse.predict.inputs import Fields, Format, count, format_of, pieces

TEXTS = ["the film wins", 'a "quoted" name, with a comma', "ünïcode \u2028 line", "", "law"]
TABLE = pl.DataFrame({"other": TEXTS[::-1], "text": TEXTS, "id": [f"n{i}" for i in range(5)]})


def read(path: Path, size: int = 2, fields: Fields = Fields(), kind: Format | None = None) -> pl.DataFrame:  # noqa: B008
    found = list(pieces(str(path), kind or format_of(str(path)), fields, size))
    assert all(piece.height == size for piece in found[:-1])
    return pl.concat(found)


def folder_of(path: Path) -> None:
    for number, text in enumerate(TEXTS):
        (path / f"{number // 3}").mkdir(parents=True, exist_ok=True)
        (path / f"{number // 3}" / f"{number}.txt").write_text(text)
    (path / ".hidden").write_text("no text")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.csv": TABLE.write_csv,
    "a.csv.gz": lambda path: path.write_bytes(gzip.compress(TABLE.write_csv().encode())),
    "a.tsv": lambda path: TABLE.write_csv(path, separator="\t"),
    "a.jsonl": TABLE.write_ndjson,
    "a.parquet": lambda path: TABLE.write_parquet(path, row_group_size=3),
    "a.txt": lambda path: path.write_text("\ufeff" + "".join(f"{text}\r\n" for text in TEXTS)),
    "a": folder_of,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_in_their_order(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    found = read(tmp_path / name)
    assert found["text"].to_list() == TEXTS
    assert found["row"].to_list() == list(range(5))
    assert found["where"].n_unique() == 5
    assert all(where.startswith(str(tmp_path / name)) for where in found["where"])
    ids = found["id"].to_list() if "id" in found.columns else None
    assert ids == ([f"{i // 3}/{i}.txt" for i in range(5)] if name == "a" else None)
    assert count(str(tmp_path / name), format_of(str(tmp_path / name))) == (5 if name in ("a", "a.parquet") else None)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_tables_have_pairs_and_ids(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    found = read(tmp_path / name, fields=Fields("other", "text", "id"))
    assert found["text"].to_list() == TEXTS[::-1]
    assert found["text_pair"].to_list() == TEXTS
    assert found["id"].to_list() == TABLE["id"].to_list()


def test_texts_are_those_that_prepare_would_make(tmp_path: Path) -> None:
    pl.DataFrame({"text": [" \u2003the film\r\nwins\n", None, "e\u0301"]}).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["text"].to_list() == ["the film\nwins", "", "é"]
    found = read(tmp_path / "a.parquet", fields=Fields(use="first_line"))
    assert found["text"].to_list() == ["the film", "", "é"]
    (tmp_path / "a.txt").write_bytes("naïve".encode("cp1252"))
    assert read(tmp_path / "a.txt", fields=Fields(encoding="cp1252"))["text"].to_list() == ["naïve"]


def test_numbers_and_categories_of_a_parquet_file(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "id": [7, 8, 9], "score": [0.1, 0.2, 0.3]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet", fields=Fields(id="id"))
    assert (found["text"].to_list(), found["id"].to_list()) == (["a", "b", "a"], ["7", "8", "9"])
    with pytest.raises(UserError, match=r"score\n +expected: a column of strings\n +found: +double"):
        read(tmp_path / "a.parquet", fields=Fields("score"))


def test_standard_input_is_utf_8_whatever_the_terminals_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ünïcode\nlaw".encode()), encoding="ascii"))
    assert read(Path("-"))["text"].to_list() == ["ünïcode", "law"]


def test_the_input_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    read_so_far = []

    class Lines:
        def readline(self, _most: int) -> str:
            read_so_far.append(1)
            return "the film\n"

    monkeypatch.setattr(sys, "stdin", Lines())
    found = pieces("-", "lines", Fields(), 10)
    next(found)
    assert len(read_so_far) == 10


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.csv", "headline\nthe film\n", Fields(), r"a.csv\n +expected: a column 'text'\n(.|\n)*the columns headline"),
        ("a.csv", "texts\nthe film\n", Fields(), "did you mean 'texts'"),
        ("a.csv", "text,b\nthe,film\na\n", Fields(), "line 3\n +expected: 2 fields"),
        ("a.csv", "", Fields(), "no columns"),
        ("a.jsonl", '{"text": "the film"}\n{"text": 3}\n', Fields(), "line 2\n +expected: a string as text"),
        ("a.jsonl", '{"text": "the film"}\n[\n', Fields(), "line 2\n +expected: one JSON object"),
        ("a.jsonl", '{"text": "\\ud800"}\n', Fields(), "half a surrogate pair"),
        ("a.jsonl", '{"t": "the film"}\n', Fields(), "line 1\n +expected: a column 'text'"),
        ("a.csv", "text,text\na,b\n", Fields(), "one column 'text'\n +found: +2 of that name"),
        ("a.csv", "text;b\nx;y\n", Fields(), "next: +set --delimiter to ';'"),
        (
            "a.csv",
            'b,text\n1,"Stop\n2,left"\n',
            Fields(),
            "line 2\n(.|\n)*lines 2 to 3(.|\n)*--quote-char to none",
        ),
        ("a.csv", 'text\n"Stop\nleft\n', Fields(), "line 2\n(.|\n)*a quote that nothing closes"),
        ("a.csv", "\udcff\udcfet\0", Fields(), "set --encoding to utf-16"),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', Fields(), "line 1\n +expected: one JSON object\n +found: +the key"),
        ("a.json", '[{"text": "a"}]\n', Fields(), "one JSON object\n +found: +an array"),
        ("a.txt", "the film\n", Fields(pair="b"), "a table, for column 'b'\n +found: +lines"),
        ("a.txt", "the film\nna\udcefve\n", Fields(), "encoded in utf-8\n +found: +byte 0xef behind line 0"),
        ("a.parquet", "no parquet", Fields(), "expected: a Parquet file"),
        ("a.csv", "\x1f\udc8b", Fields(), "expected: a whole gzip file"),
        ("a.zip", "PK", Fields(), "a folder of text files\n +found: +another kind"),
        ("none.csv", None, Fields(), "a file of texts\n +found: +nothing there"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | None, fields: Fields, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, fields=fields)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_path_is_literal(name: str, tmp_path: Path) -> None:
    for folder, text in {"a 1": "another", "a [1]*?": "this"}.items():
        (tmp_path / folder).mkdir()
        table = pl.DataFrame({"text": [text]})
        with (tmp_path / folder / name).open("wb") as file:
            {"a.csv": table.write_csv, "a.jsonl": table.write_ndjson, "a.parquet": table.write_parquet}[name](file)
    assert read(tmp_path / "a [1]*?" / name)["text"].to_list() == ["this"]


def test_a_column_twice_in_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"one column 'text'\n +found: +2 of that name"):
        read(tmp_path / "a.parquet")


def test_other_delimiters_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id;text\n1;"Stop\n2;left"\n')
    for quote_char, expected in {"none": ['"Stop', 'left"'], '"': ["Stop\n2;left"]}.items():
        fields = Fields(delimiter=";", quote_char=quote_char)
        assert read(tmp_path / "a.csv", fields=fields)["text"].to_list() == expected


def test_of_one_column_it_is_told_what_cannot_be_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text('text\n"two\nlines"\nx\n"two\nmore"\n')
    assert read(tmp_path / "a.csv")["text"].to_list() == ["two\nlines", "x", "two\nmore"]
    assert "a.csv: 2 quoted texts go over several lines (from line 2, 5)" in capsys.readouterr().err
    read(tmp_path / "a.csv", fields=Fields(quote_char='"'))
    assert not capsys.readouterr().err


def test_options_that_fit_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"standard input\n +expected: lines, csv, tsv or jsonl\n +found: +parquet"):
        read(Path("-"), kind="parquet")
    with pytest.raises(UserError, match=r"--encoding\n(.|\n)*utf-9"):
        Fields(encoding="utf-9")
    with pytest.raises(UserError, match=r"--delimiter and --quote-char\n +expected: one character as delimiter"):
        Fields(delimiter="||")
