"""Parameter files, data sets, tables, answers and a search's storage: what is left of what a user is given."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import yaml

from benchmarks.hostile.judge import OWNED, Case
from benchmarks.hostile.opening import ilse
from benchmarks.hostile.project import ANSWERS
from benchmarks.hostile.spoiling import (
    DEEP,
    PICKLE,
    TOO_LONG_NUMBER,
    Craft,
    broken_json,
    cut,
    edited,
    folder,
    linked_out,
    pipe,
    written,
)
from ilse.core.files.table_files import read_parquet

PREPARE, EVALUATE = ilse("prepare", "--out", "data/other"), ilse("evaluate", "--results", "other")
TRAIN, TUNE = ilse("train", "weighted"), ilse("tune", "weighted")
FACTS, TABLE, EXAMPLES = f"{ANSWERS}/answers.json", f"{ANSWERS}/answers.parquet", "data/examples.parquet"
LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGES = "a0: &a0 {path: source.csv}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
DOUBLES = "a0: &a0 {a: 1, b: 2}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: 1}}\n" for i in range(1, 26)
)


def cases() -> Iterator[Case]:
    """All of them."""
    for name, content in PARAMETERS.items():
        yield Case("parameter file", name, written("params.yaml", content), PREPARE)
    for name, (file, content) in DATA.items():
        yield Case("data set", name, data_set(file, content), PREPARE)
    for name, craft in broken_json(FACTS).items():
        if name != "nothing":  # the folder is then taken for a head's, and refused as one
            yield Case("answers", name, craft, EVALUATE)
    for name, craft in ANSWERED.items():
        yield Case("answers", name, craft, EVALUATE)
    for name, craft in TABLES.items():
        yield Case("table of examples", name, craft, TRAIN)
    for name, content in {"a pickle": PICKLE, "a database cut short": b"SQLite format 3\0" + bytes(50)}.items():
        yield Case("search's storage", name, written("data/tune.db", content), TUNE)
    for name, craft in {"a link out": linked_out("given/a.txt"), "a pipe": pipe("given/a.txt")}.items():
        yield Case("folder to fetch", name, craft, ilse("fetch", "folder", "--out", "data/raw"))


def data_set(file: str, content: bytes) -> Craft:
    """The file as what `ilse prepare` reads."""

    def craft() -> None:
        Path(file).write_bytes(content)
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["prepare"]["path"] = file
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return craft


def table(place: str, change: pl.Expr) -> Craft:
    """The Parquet table with another column."""
    return lambda: read_parquet(place).with_columns(change).write_parquet(place)


PARAMETERS: dict[str, bytes] = {
    "a tag that calls": f"prepare: !!python/object/apply:os.mknod [{OWNED}]\n".encode(),
    "a tag that makes an object": b"prepare: !!python/object/new:os.system [touch owned]\n",
    "a tag that imports": b"prepare: !!python/module:os\n",
    "a name that stands for a billion": LAUGHS.encode() + b"prepare: *a9\n",
    "a key of a billion": LAUGHS.encode() + b"prepare: {path: *a9}\n",
    "a merge key of a billion": MERGES.encode() + b"prepare:\n  <<: *a9\n  path: source.csv\n",
    "merge keys that double 25 times": DOUBLES.encode() + b"prepare: *a25\n",
    "400,000 keys": b"".join(b"k%d: 1\n" % i for i in range(400_000)),
    "40,000 keys": b"".join(b"k%d: 1\n" % i for i in range(40_000)),
    "a number of 300,000 digits to the base 60": b"prepare: 1" + b":1" * 300_000,
    "a file of 2 MB": b"# \n" * 700_000,
    "a section in itself": b"prepare: &a {path: *a}\n",
    "a list in a list, 2,000 deep": b"prepare: " + b"[" * 2000 + b"]" * 2000,
    "a number of 5,000 digits": b"prepare: " + TOO_LONG_NUMBER,
    "a key twice": b"prepare: {path: other.csv, path: source.csv}\n",
    "a section twice": b"prepare: {path: source.csv}\nprepare: {path: source.csv}\n",
    "a key that is a list": b"prepare: {[path]: source.csv}\n",
    "not UTF-8": b"\xff\xfeprepare",
    "NUL": b"prepare: {path: \0}\n",
    "a list": b"[1]",
    "a pickle": PICKLE,
    "a date that there is not": b"prepare: {path: 2001-99-99}\n",
}
DATA: dict[str, tuple[str, bytes]] = {
    "a table that is a pickle": ("x.parquet", PICKLE),
    "a table of the magic alone": ("x.parquet", b"PAR1" * 2),
    "a table with a footer of 4 GB": ("x.parquet", b"PAR1" + bytes(20) + b"\xff\xff\xff\x7fPAR1"),
    "JSON 200,000 deep": ("x.jsonl", DEEP),
    "a number of 5,000 digits": ("x.jsonl", b'{"text": "a", "label": ' + TOO_LONG_NUMBER + b"}"),
    "half a surrogate pair": ("x.jsonl", b'{"text": "\\ud800", "label": "a"}'),
    "not UTF-8": ("x.csv", b"text,label\n\xff,a\n"),
    "a quote that never ends": ("x.csv", b'text,label\n"a,b\n'),
    "a quote that swallows rows": ("x.tsv", b'text\tlabel\n"a\tb\nc"\td\n'),
    "a label that is a list": ("x.csv", b"text,label\na,['b']\n"),
    "a label that calls": ("x.csv", f"text,label\na,[__import__('os').mknod({str(OWNED)!r})]\n".encode()),
    "a key twice in an object": ("x.jsonl", b'{"text": "a", "text": "b", "label": "c"}'),
    "a bomb of gzip": ("x.csv.gz", gzip.compress(bytes(2**20)) * 200),
    "gzip cut short": ("x.csv.gz", gzip.compress(b"text,label\na,b\n")[:-5]),
    "another ending": ("x.pkl", PICKLE),
}
ANSWERED: dict[str, Craft] = {
    "answers that are a pickle": written(TABLE, PICKLE),
    "half the answers": cut(TABLE, 60),
    "a folder for the answers": folder(TABLE),
    "answers that lead out": linked_out(TABLE),
    "the very answers, but outside": linked_out(TABLE, content=True),
    "a pipe for the answers": pipe(TABLE),
    "answers that are NaN": table(TABLE, pl.col("answer").list.eval(pl.element() * float("nan"))),
    "answers that are words": table(TABLE, pl.lit("yes").alias("answer")),
    "texts of others": table(TABLE, pl.lit("0" * 32).alias("text_id")),
    "a later format version": edited(FACTS, lambda f: f.update(format_version=99)),
    "an unknown fact": edited(FACTS, lambda f: f.update(code="print()")),
    "a figure that is infinite": edited(FACTS, lambda f: f.update(val_score=float("inf"))),
}
TABLES: dict[str, Craft] = {
    "a pickle": written(EXAMPLES, PICKLE),
    "half of it": cut(EXAMPLES, 60),
    "a pipe": pipe(EXAMPLES),
    "ids that are numbers": table(EXAMPLES, pl.lit(1).alias("text_id")),
    "ids of other texts": table(EXAMPLES, pl.lit("0" * 32).alias("text_id")),
    "indices beyond the labels": table(EXAMPLES, pl.lit(10**9).alias("label_index")),
    "indices that are words": table(EXAMPLES, pl.lit("a").alias("label_index")),
    "labels that are numbers": table(EXAMPLES, pl.lit(1.5).alias("label")),
    "splits that are numbers": table(EXAMPLES, pl.lit(1).alias("split")),
    "an unknown split": table(EXAMPLES, pl.lit("../../outside").alias("split")),
    "scores that are infinite": lambda: (
        read_parquet(EXAMPLES)
        .drop("label", "label_index")
        .with_columns(pl.lit(float("inf")).alias("score"))
        .write_parquet(EXAMPLES)
    ),
}
