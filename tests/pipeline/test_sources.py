"""Sources: every format gives the same rows for the same content, and every flaw is named with its place."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilse.core.errors import UserError
from pipeline.dataset.columns import Columns
from pipeline.dataset.delimited import Dialect
from pipeline.dataset.readers import Decoder, read_file
from pipeline.dataset.sources import Format, read_source
from pipeline.dataset.targets import as_labels, as_scores, label_names, with_one_spelling

COLUMNS = Columns("text", "label", None)
ROWS = [
    ('A quote " and a comma, here', "joy"),
    ("two\nlines", "anger"),
    ("ünïcode \u2028 £5", "joy"),
    ("tab\there", "fear"),
    ("12", "anger"),
]


def read(
    path: str | dict[str, str] | Path,
    kind: Format = "auto",
    columns: Columns = COLUMNS,
    decode: Decoder | None = None,
    quote_char: str = "auto",
) -> pl.DataFrame:
    given = str(path) if isinstance(path, Path) else path
    return read_source(given, kind, columns, decode or Decoder(), as_labels, Dialect(quote_char=quote_char))


def frame(rows: list[tuple[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["text", "label"], orient="row")


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    frame(rows).write_csv(path)


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> None:
    frame(rows).write_csv(path, separator="\t")


def write_jsonl(path: Path, rows: list[tuple[str, str]]) -> None:
    frame(rows).write_ndjson(path)


def write_parquet(path: Path, rows: list[tuple[str, str]]) -> None:
    frame(rows).write_parquet(path)


Writer = Callable[[Path, list[tuple[str, str]]], None]


def packed(write: Writer) -> Writer:
    def write_packed(path: Path, rows: list[tuple[str, str]]) -> None:
        plain = path.with_suffix("")
        write(plain, rows)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()

    return write_packed


WRITERS: dict[str, Writer] = {
    "csv": write_csv,
    "tsv": write_tsv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "json": write_jsonl,
    "csv.gz": packed(write_csv),
    "jsonl.gz": packed(write_jsonl),
}


@pytest.mark.parametrize("ending", WRITERS)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")),
            st.text("abcé", min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_what_is_written_is_read(ending: str, rows: list[tuple[str, str]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("source") / f"x.{ending}"
    WRITERS[ending](path, rows)
    found = read(path, quote_char='"')  # of such texts, some lines could be rows
    assert found.select("source_row", "text", "target", "split").rows() == [
        (i, text, label, None) for i, (text, label) in enumerate(rows)
    ]


@pytest.mark.parametrize("ending", WRITERS)
def test_every_table_format_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    WRITERS[ending](path, ROWS)
    assert read(path).select("text", "target").rows() == ROWS
    kind = {"json": "jsonl"}.get(ending, ending.removesuffix(".gz"))
    assert read(path.rename(tmp_path / "x.data"), kind=kind).select("text", "target").rows() == ROWS  # type: ignore[arg-type]


def folder_of(path: Path) -> list[tuple[str, str]]:
    """A folder data set, with things that do not count; returns its rows."""
    files = {"b/2.txt": "two", "a/10.txt": "ten", "a/9.txt": "nine", "a-b/1.txt": "one", "a/deep/x.txt": "deep"}
    for name, text in (files | {"README.txt": "loose", "a/.hidden": "hidden", ".git/x": "hidden"}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return [(files[name], name.split("/")[0]) for name in sorted(files)]


def test_a_folder_and_its_zip_give_the_same_rows(tmp_path: Path) -> None:
    rows = folder_of(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in sorted((tmp_path / "data").rglob("*"), reverse=True):
            archive.write(file, file.relative_to(tmp_path / "data"))
    assert read(tmp_path / "data").select("text", "target").rows() == rows
    assert read(tmp_path / "data.zip").equals(read(tmp_path / "data"))


@pytest.mark.parametrize(
    "names",
    [
        {"train": ["train.parquet"], "validation": ["dev.parquet"], "test": ["test.parquet"]},
        {
            "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "validation": ["data/validation-00000-of-00001.parquet"],
            "test": ["data/test-00000-of-00001.parquet"],
        },
        {
            "train": ["default/train/0.parquet"],
            "validation": ["default/valid/0.parquet"],
            "test": ["default/test/0.parquet"],
        },
        {"train": ["train.jsonl"], "validation": ["val.jsonl"], "test": ["test.jsonl"]},
        {"train": ["train.jsonl.gz"], "validation": ["dev.jsonl.gz"], "test": ["test.jsonl.gz"]},
        {"train": ["train.json"], "validation": ["dev.json"], "test": ["test.json"]},
    ],
)
def test_a_snapshot_gives_its_splits_test_first(names: dict[str, list[str]], tmp_path: Path) -> None:
    for split, files in names.items():
        for number, name in enumerate(files):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            WRITERS[name.split(".", 1)[1]](tmp_path / name, [(f"{split} {number}", "x")])
    for name in ("README.md", "dataset_infos.json", "data/state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    write_jsonl(tmp_path / "train_extra.jsonl", [("not a split", "x")])
    found = read(tmp_path)
    expected = [
        (split, f"{split} {i}", i) for split in ("test", "validation", "train") for i in range(len(names[split]))
    ]
    assert found.select("split", "text", "source_row").rows() == expected
    only = read({"train": str(tmp_path), "test": str(tmp_path)})
    assert only.filter(pl.col("split") == "validation").is_empty()
    assert only.height == found.height - 1


def test_a_snapshot_with_two_configurations_is_refused(tmp_path: Path) -> None:
    for config in ("plain", "raw"):
        (tmp_path / config).mkdir()
        write_parquet(tmp_path / config / "train.parquet", ROWS)
    with pytest.raises(UserError, match=r"files of one folder(.|\n)*one configuration's folder"):
        read(tmp_path)


def test_a_path_for_each_split_and_numbers_beside_words(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["a"], "label": [3]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"text": ["b", "c"], "label": [4.0, None]}).write_parquet(tmp_path / "b.parquet")
    write_csv(tmp_path / "c.csv", [("d", "three")])
    paths = {"train": str(tmp_path / "a.parquet"), "dev": str(tmp_path / "b.parquet"), "test": str(tmp_path / "c.csv")}
    assert read(paths).select("split", "target").rows() == [
        ("test", "three"),
        ("validation", "4"),
        ("validation", None),
        ("train", "3"),
    ]


def test_a_split_column(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "label": 1, "fold": "train"},
        {"text": "b", "label": True, "fold": "dev"},
        {"text": "c"},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows[:2]) + "\n")
    columns = Columns("text", "label", "fold")
    assert read(path, columns=columns).select("target", "split").rows() == [("1", "train"), ("true", "validation")]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(UserError, match=r"column 'fold'(.|\n)*found:    ''"):
        read(path, columns=columns)
    path.write_text(json.dumps(rows[0] | {"fold": "trian"}))
    with pytest.raises(UserError, match="did you mean 'train'"):
        read(path, columns=columns)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"text,label\nfine,a\nno label\nfine,b\n", r"x\.csv, line 3\n  expected: 2 fields\n  found:    1"),
        ("x.csv", b'text,label\n"two\nlines",a\nx,y,z\n', r"line 4\n  expected: 2 fields\n  found:    3"),
        (
            "x.csv",
            b'text,label\nfine,a\n"never closed,b\nx,y\n',
            r"line 3\n(.|\n)*a quote that nothing closes(.|\n)*quote_char to none",
        ),
        ("x.tsv", b'text\tlabel\n"He" said\ta\n', r"line 2\n(.|\n)*expected after"),
        ("x.csv", b"txt,label\nx,y\n", r"a column 'text'(.|\n)*did you mean 'txt'\?"),
        ("x.csv", b"", r"a column 'text'\n  found:    no columns"),
        ("x.csv", b"text,label\n", r"at least one row"),
        ("x.csv", b"text,label\n\xff,a\n", r"x\.csv\n.*utf-8\n.*byte 0xff at offset 11"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "a"\n', r"x\.jsonl, line 2\n  expected: one JSON object"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n\n[1]\n', r"line 3\n(.|\n)*a JSON list"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": 5, "label": 1}\n', r"line 2\n.*a string as text\n.*JSON int"),
        ("x.jsonl", b'{"text": "a", "label": {}}\n', r"line 1\n.*a string or a number as target\n.*JSON dict"),
        ("x.jsonl", b'{"text": "\\ud800", "label": 1}\n', r"line 1\n(.|\n)*half a surrogate pair"),
        ("x.jsonl", b'{"text": "a", "labels": 1}\n', r"did you mean 'labels'\?"),
        ("x.jsonl", b"\n", r"at least one row"),
        ("x.jsonl", b'{"text": "a", "text": "b", "label": 1}\n', r"line 1\n.*one JSON object\n.*the key 'text' twice"),
        ("x.json", b'[{"text": "a"}]', r"line 1\n.*one JSON object\n.*an array\n.*lines=True"),
        ("x.csv", b"text,label,text\na,b,c\n", r"one column 'text'\n  found:    2 of that name"),
        ("x.csv", b"text;label\na;b\n", r"prepare.delimiter to ';'"),
        ("x.tsv", b'text\tlabel\n"He\ta\nleft"\tb\n', r"line 2\n(.|\n)*over lines 2 to 3(.|\n)*quote_char to none"),
        ("x.csv", "text,label\na,b\n".encode("utf-16"), r"byte 0xff at offset 0\n.*set prepare.encoding to utf-16"),
        (
            "x.csv.gz",
            gzip.compress(gzip.compress(b"text,label\na,b\n", mtime=0), mtime=0),
            r"it is packed with gzip twice",
        ),
        ("x.csv", b"text,label\na,['b']\nb,['c']\n", r"one label per example\n.*\['.'\]'?\"?\n.*labels_column"),
        ("x.parquet", b"PAR1 no", r"expected: a Parquet file"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0)[:-3], r"x\.jsonl\.gz\n  expected: a whole gzip file"),
        ("x.txt.gz", b"", r"found:    the ending '\.txt\.gz'"),
        ("x.xlsx", b"", r"a file that ends in \.parquet(.|\n)*found:    the ending '\.xlsx'"),
        ("x.zip", b"no zip", r"a whole, unencrypted zip file"),
    ],
)
def test_a_flaw_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_sources_of_other_libraries_are_named(tmp_path: Path) -> None:
    saved = tmp_path / "saved" / "train"
    saved.mkdir(parents=True)
    (saved / "data-00000-of-00001.arrow").write_bytes(b"\xff\xff")
    (saved / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"files of datasets.save_to_disk\n.*to_parquet"):
        read(tmp_path / "saved")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data/train.csv", "text,label\na,b\n")
    with pytest.raises(UserError, match=r"the table data/train.csv\n.*unpack it"):
        read(tmp_path / "x.zip")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_the_path_is_literal(ending: str, tmp_path: Path) -> None:
    """A pattern would find the other file too, or alone."""
    for name, text in {f"news 2.{ending}": "other", f"news [2024].{ending}": "this"}.items():
        WRITERS[ending](tmp_path / name, [(text, "x")])
    assert read(tmp_path / f"news [2024].{ending}")["text"].to_list() == ["this"]


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing there"):
        read(tmp_path / "no.csv")
    with pytest.raises(UserError, match="one sub-folder a label"):
        read(tmp_path)
    with pytest.raises(UserError, match="files named by split"):
        read(tmp_path, kind="hub")
    with pytest.raises(UserError, match="parquet files"):
        read(tmp_path, kind="parquet")


def test_columns_of_the_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"text": [1], "label": ["a"]}).write_parquet(path)
    with pytest.raises(UserError, match=r"a column of strings\n  found:    Int64"):
        read(path)
    pl.DataFrame({"text": ["a"], "label": [[1]]}).write_parquet(path)
    with pytest.raises(UserError, match="a column of List"):
        read(path)
    pl.DataFrame({"text": ["a"], "label": [0.5]}).write_parquet(path)
    with pytest.raises(UserError, match=r"the number 0\.5(.|\n)*score_column"):
        read(path)


def test_categorical_columns_are_strings(tmp_path: Path) -> None:
    categorical = pl.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}).cast(pl.Categorical)
    categorical.write_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").select("text", "target").rows() == [("a", "x"), ("b", "y")]


def test_encodings(tmp_path: Path) -> None:
    for name, data in {"a/1.txt": "£5".encode(), "a/2.txt": "£5".encode("cp1252"), "b/1.txt": b"\xef\xbb\xbfx"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"a/2\.txt\n.*utf-8\n.*byte 0xa3 at offset 0\n.*fallback_encoding"):
        read(tmp_path)
    decode = Decoder(fallback="cp1252")
    assert read(tmp_path, decode=decode)["text"].to_list() == ["£5", "£5", "x"]
    assert decode.fallen_back == [f"{tmp_path}/a/2.txt"]
    (tmp_path / "b/1.txt").write_bytes(b"\xff\x81")
    with pytest.raises(UserError, match=r"b/1\.txt\n.*cp1252\n.*byte 0x81 at offset 1"):
        read(tmp_path, decode=Decoder(fallback="cp1252"))
    (tmp_path / "x.csv").write_bytes("text,label\né,a\n".encode("utf-16"))
    assert read(tmp_path / "x.csv", decode=Decoder("utf-16"))["text"].to_list() == ["é"]


def test_texts_longer_than_the_csv_readers_default(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [("word " * 100_000, "a")])
    assert read_file(tmp_path / "x.csv", "csv", COLUMNS, Decoder())["text"].str.len_chars().to_list() == [500_000]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1.5", " 2 ", None, ""], [1.5, 2.0, None, None]),
        ([1, 2, None], [1.0, 2.0, None]),
        ([0.25, None], [0.25, None]),
    ],
)
def test_scores(values: list[Any], expected: list[Any]) -> None:
    found = as_scores(pl.Series(values), "x")
    assert found.dtype == pl.Float64
    assert found.to_list() == expected


@pytest.mark.parametrize("values", [["1", "high"], [1.0, float("nan")], [1.0, float("inf")], ["1", "nan"]])
def test_what_is_no_score(values: list[Any]) -> None:
    with pytest.raises(UserError, match=r"row [01] \(from 0\)\n  expected: a finite number as score"):
        as_scores(pl.Series(values), "x")
    with pytest.raises(UserError, match="a column of List"):
        as_scores(pl.Series([[1]]), "x")


def test_label_maps() -> None:
    assert label_names(pl.Series(["10", "9", "-1", "9"])) == ["-1", "9", "10"]
    assert label_names(pl.Series(["10", "9", "b"])) == ["10", "9", "b"]
    assert label_names(pl.Series(["10.0", "2.0", "+1", "-0.5"])) == ["-0.5", "+1", "2.0", "10.0"]
    assert as_labels(pl.Series([" a ", "", None, "\u3000"]), "x").to_list() == ["a", None, None, None]
    assert as_labels(pl.Series([True, False]), "x").to_list() == ["true", "false"]
    assert as_labels(pl.Series([1.0, float("nan"), None]), "x").to_list() == ["1", None, None]
    assert as_labels(pl.Series([1e20, -0.0]), "x").to_list() == ["1" + "0" * 20, "0"]
    assert as_labels(pl.Series([Decimal("2.00"), None]), "x").to_list() == ["2", None]
    words = ["caf\u00e9", "cafe\u0301 ", "\ufeffcaf\u00e9\u200b", "\u200b"]
    assert as_labels(pl.Series(words), "x").to_list() == ["café", "café", "café", None]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", "1.0", "10.0", "2"], ["1", "1", "10", "2"]),
        (["-0", "0.0", "+1"], ["0", "0", "1"]),
        (["2.0", "10.0"], ["2.0", "10.0"]),
        (["01", "10", "1.5"], ["01", "10", "1.5"]),
        (["1", "1.0", "one"], ["1", "1.0", "one"]),
        (["nan", "None", "word"], ["nan", "None", "word"]),
    ],
)
def test_numbers_have_one_name_each(labels: list[str], expected: list[str]) -> None:
    assert with_one_spelling(pl.Series(labels), "x")[0].to_list() == expected
    lists = [[name] for name in expected]
    assert with_one_spelling(pl.Series([[label] for label in labels]), "x")[0].to_list() == lists


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1.1", "1.10"], r"numbers spelled in one way each\n.*'1.1' and '1.10'\n.*a letter before each"),
        (["01", "1"], r"'01' and '1'"),
        (["1", "nan", "2"], r"numbers as labels, or names\n.*'nan' among numbers\n.*leave that field empty"),
    ],
)
def test_numbers_that_may_be_names_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_one_spelling(pl.Series(labels), "x")
