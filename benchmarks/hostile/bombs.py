"""Tables that unfold to more than memory holds, and texts that are longer than a text may be."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.hostile.judge import Case
from benchmarks.hostile.opening import Opener, ilse
from benchmarks.hostile.project import ANSWERS, HEAD
from benchmarks.hostile.spoiling import Craft

Make = Callable[[Path], object]
ROWS = 20_000_000
"""Of a column of one value: a hundred kilobytes."""
LONG = 2**24 + 1
"""Bytes of a text, one more than a text may have."""
EXAMPLES, TEXTS, ANSWERED = "data/examples.parquet", "data/texts.parquet", f"{ANSWERS}/answers.parquet"
PREPARE = ilse("prepare", "--out", "data/other")
EXTRACT = ilse("extract", "--out", "data/other.zarr", "--scratch", "data/other", "--figures", "data/other.json")
ROWS_LEFT = ilse("evaluate", "--results", "other")
TABLES: dict[str, tuple[str, Opener]] = {
    "train": (EXAMPLES, ilse("train", "weighted")),
    "control": (EXAMPLES, ilse("control", "majority")),
    "evaluate": (EXAMPLES, ROWS_LEFT),
    "extract": (TEXTS, EXTRACT),
    "plan": (TEXTS, ilse("plan")),
    "answers": (ANSWERED, ROWS_LEFT),
}
"""Command → the table that unfolds before it, and how it is opened."""


def predict(source: str) -> Opener:
    """`ilse predict` with the project's head."""
    return ilse("predict", HEAD, "--input", source, "--model", "model", "--out", "other.csv")


def cases() -> Iterator[Case]:
    """All of them."""
    for name, (file, make) in SOURCES.items():
        yield Case("source that unfolds", name, source(file, make), PREPARE)
        yield Case("input that unfolds", name, source(file, make), predict(file))
    for name, (place, opener) in TABLES.items():
        yield Case("table that unfolds", name, of(repeated, place), opener)
    yield Case("table that unfolds", "answers, in lists", of(in_lists, ANSWERED), ROWS_LEFT)


def of(make: Make, place: str) -> Craft:
    """The file in that place."""
    return lambda: make(Path(place))


def source(file: str, make: Make) -> Craft:
    """The file as what `ilse prepare` reads."""

    def craft() -> None:
        make(Path(file))
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["prepare"]["path"] = file
        Path("params.yaml").write_text(yaml.safe_dump(params))

    return craft


def repeated(path: Path, text: str = "a text", rows: int = ROWS) -> None:
    """A table of one text, again and again."""
    texts = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([text]))
    pq.write_table(pa.table({"text": texts, "label": texts}), path, compression="zstd", row_group_size=rows)


def in_lists(path: Path) -> None:
    """A row whose list has as many values as `ROWS`."""
    one = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), ROWS), pa.array([0.5], pa.float32()))
    lists = pa.ListArray.from_arrays(pa.array([0, ROWS], pa.int32()), one)
    pq.write_table(pa.table({"text_id": ["a"], "answer": lists}), path, compression="zstd")


def zeros(path: Path) -> None:
    """A gigabyte in a megabyte, without a line end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with ExitStack() as stack:
        file = stack.enter_context(path.open("wb"))
        file.write(packer.compress(b"text,label\n"))
        for _ in range(2**10):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())


def long_parquet(path: Path) -> None:
    """A text of sixteen megabytes."""
    pq.write_table(pa.table({"text": ["a", "b" * LONG], "label": ["a", "b"]}), path)


SOURCES: dict[str, tuple[str, Make]] = {
    "20 million rows of one text": ("x.parquet", repeated),
    "100,000 rows of one text of a megabyte": ("x.parquet", lambda path: repeated(path, "a b " * 2**18, 100_000)),
    "a gigabyte of zeros, packed": ("x.csv.gz", zeros),
    "a long text, CSV": ("x.csv", lambda path: path.write_text(f"text,label\na,a\n{'b' * LONG},b\n")),
    "a long text, TSV": ("x.tsv", lambda path: path.write_text(f"text\tlabel\na\ta\n{'b' * LONG}\tb\n")),
    "a long text, quoted": ("x.csv", lambda path: path.write_text('text,label\n"' + "b\n" * LONG + '",b\n')),
    "a long text, JSON": (
        "x.jsonl",
        lambda path: path.write_text(f'{{"text": "{"b" * LONG}", "label": "a"}}\n{{"text": "a", "label": "b"}}\n'),
    ),
    "a long text, Parquet": ("x.parquet", long_parquet),
    "a long text, packed": (
        "x.jsonl.gz",
        lambda path: path.write_bytes(gzip.compress(b'{"text": "%s", "label": "a"}' % (b"b" * LONG))),
    ),
}
