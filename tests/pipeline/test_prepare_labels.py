"""Prepare, several labels per example: their tables against a twin of plain loops, and how lists are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from pipeline.dataset.targets import as_label_sets, label_names
from tests.pipeline.prepared import digest, drawn, plain, run

Labels = list[str] | None
Row = tuple[str, Labels]
lists_of = st.none() | st.lists(st.sampled_from(["10", "9", " 9", "2", "", " "]), max_size=4)
rows_of = st.lists(st.tuples(st.sampled_from(["", "a", "a ", "b", "c", "d"]), lists_of), max_size=20)
# Enough of the rest for each split to have an example.
REST: list[Row] = [(f"text {i}", [["9"], ["9", "10"], []][i % 3]) for i in range(60)]


def write(path: Path, rows: list[Row]) -> Path:
    pl.DataFrame(rows, schema={"text": pl.String, "tags": pl.List(pl.String)}, orient="row").write_parquet(path)
    return path


def several(path: Path | dict[str, str], out: Path, **more: Any) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    return run(path, out, labels_column="tags", **more)


def one_by_one(rows: list[Row]) -> list[tuple[int, str, list[str], list[int], str]]:
    """The obvious twin of `prepare` with drawn splits, seed 0: examples (row, text id, labels, indices, split)."""
    usable = [
        (i, plain(text), frozenset(label.strip() for label in labels) - {""})
        for i, (text, labels) in enumerate(rows)
        if plain(text) and labels is not None
    ]
    sets: dict[str, set[frozenset[str]]] = {}
    for _, text, labels in usable:
        sets.setdefault(text, set()).add(labels)
    kept = [row for row in usable if len(sets[row[1]]) == 1]
    names = sorted({label for _, _, labels in kept for label in labels}, key=int)
    return [
        (i, digest(text), sorted(labels, key=int), sorted(map(names.index, labels)), drawn(digest(text)))
        for i, text, labels in kept
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(rows=rows_of)
def test_the_tables_equal_their_twin(rows: list[Row], tmp_path: Path) -> None:
    counts, _, examples = several(write(tmp_path / "x.parquet", rows + REST), tmp_path / "out")
    expected = one_by_one(rows + REST)
    assert examples.rows() == expected
    for split, found in counts["examples_per_label"].items():
        sets = [labels for _, _, labels, _, place in expected if place == split]
        assert found == {name: sum(name in labels for labels in sets) for name in counts["labels"]}
        assert counts["examples_without_labels"][split] == sets.count([])
    assert counts["duplicates"] == len(expected) - len({(text, tuple(labels)) for _, text, labels, *_ in expected})


def test_the_columns_and_counts(tmp_path: Path) -> None:
    data: dict[str, list[Row]] = {
        "test": [("a", ["x", "y", "x"]), ("b", [])],
        "validation": [("c", ["z", "y"]), ("a", ["x", "y"])],
        "train": [
            ("d", ["y", "x"]),
            ("e", None),
            ("f", ["x"]),
            ("f", ["x", "y"]),
            ("g", ["y", "x"]),
            ("g", ["x", "y"]),
        ],
    }
    paths = {split: str(write(tmp_path / f"{split}.parquet", rows)) for split, rows in data.items()}
    counts, _, examples = several(paths, tmp_path / "out")
    assert examples.schema == {
        "source_row": pl.Int64,
        "text_id": pl.String,
        "labels": pl.List(pl.String),
        "label_indices": pl.List(pl.Int64),
        "split": pl.String,
    }
    assert examples["labels"].to_list() == [["x", "y"], [], ["y", "z"], ["x", "y"], ["x", "y"], ["x", "y"]]
    assert examples["label_indices"].to_list() == [[0, 1], [], [1, 2], [0, 1], [0, 1], [0, 1]]
    assert counts["labels"] == {"x": 0, "y": 1, "z": 2}
    assert counts["examples_per_label"]["train"] == {"x": 3, "y": 3, "z": 0}
    assert counts["examples_without_labels"] == {"train": 0, "validation": 0, "test": 1}
    assert counts["notes"] == [
        "rows dropped because the label set is missing: 1",
        "rows dropped because the text is also in another split (test keeps it, then validation): 1",
        "rows dropped because the text has several label sets: 2",
        "texts with several label sets: 1",
        "duplicate rows kept (same text, label set and split): 1",
        "examples without any label: 1",
        "labels with a single example: 1 (z)",
        "warning: labels without an example in train: 1 (z)",
        "warning: labels without an example in validation: 1 (x)",
        "warning: labels without an example in test: 1 (z)",
    ]
    assert json.loads(json.dumps(counts)) == counts
    with pytest.raises(UserError, match=r"rows 2, 3\n(.|\n)*found:    \['x'\], \['x', 'y'\] for 'f' \(1 such texts\)"):
        several(paths, tmp_path / "out", conflicts="error")


ROWS: list[Row] = [("a", ["9", "10"]), ("b", []), ("c", ["10"])]


def test_every_table_format_gives_the_same_tables(tmp_path: Path) -> None:
    rows = ROWS + REST
    _, _, examples = several(write(tmp_path / "x.parquet", rows), tmp_path / "parquet")
    objects = {
        "arrays": [{"text": text, "tags": labels} for text, labels in rows],
        "numbers": [{"text": text, "tags": [int(label) for label in labels or ()]} for text, labels in rows],
        "strings": [{"text": text, "tags": "|".join(labels or ())} for text, labels in rows],
    }
    for name, lines in objects.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        assert several(path, tmp_path / name)[2].equals(examples), name
    pl.DataFrame(objects["numbers"]).write_parquet(tmp_path / "n.parquet")
    assert several(tmp_path / "n.parquet", tmp_path / "out")[2].equals(examples)
    for ending, between in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"x.{ending}"
        path.write_text("\n".join([f"text{between}tags", *(f"{a}{between}{'|'.join(b or ())}" for a, b in rows)]))
        assert several(path, tmp_path / ending)[2].equals(examples), ending


@pytest.mark.parametrize("separator", ["|", ";", ", ", " "])
def test_a_string_is_split_by_the_separator(separator: str, tmp_path: Path) -> None:
    cells = [separator.join(parts) for parts in (["b", " a ", "b"], [""], ["", "c", ""], ["a"])]
    filled = [f'text {i},"{["a", "b"][i % 2]}"' for i in range(60)]
    lines = ["text,tags", *(f'{i},"{cell}"' for i, cell in enumerate(cells)), *filled]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    counts, _, examples = several(tmp_path / "x.csv", tmp_path / "out", label_separator=separator)
    assert examples["labels"].to_list()[:4] == [["a", "b"], [], ["c"], ["a"]]
    assert (counts["missing_targets"], examples.height) == (0, 64)


def test_only_null_is_a_missing_target(tmp_path: Path) -> None:
    rest = [json.dumps({"text": text, "tags": labels}) for text, labels in REST]
    lines = ['{"text": "a", "tags": null}', '{"text": "b"}', '{"text": "c", "tags": []}', '{"text": "d", "tags": [""]}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines + rest))
    counts, texts, examples = several(tmp_path / "x.jsonl", tmp_path / "out")
    assert counts["missing_targets"] == 2
    assert examples["labels"].to_list()[:2] == [[], []]
    assert texts["text"].to_list()[:2] == ["c", "d"]
    frame = pl.DataFrame({"text": ["a", "b"] + [text for text, _ in REST], "tags": [None, ""] + ["9|10"] * 60})
    frame.write_parquet(tmp_path / "x.parquet")
    counts, _, examples = several(tmp_path / "x.parquet", tmp_path / "out")
    assert (counts["missing_targets"], examples["labels"].to_list()[:2]) == (1, [[], ["9", "10"]])


def test_one_label_is_a_task_and_none_is_not(tmp_path: Path) -> None:
    rows: list[Row] = [(text, ["only"] * (i % 2)) for i, (text, _) in enumerate(REST)]
    counts, _, _ = several(write(tmp_path / "x.parquet", rows), tmp_path / "out")
    assert counts["labels"] == {"only": 0}
    with pytest.raises(UserError, match=r"at least one label\n  found:    60 examples without any\n.*labels_column"):
        several(write(tmp_path / "x.parquet", [(text, []) for text, _ in REST]), tmp_path / "out")


def test_pairs_with_several_labels(tmp_path: Path) -> None:
    rest = [{"text": text, "two": "same", "tags": labels} for text, labels in REST]
    rows = [
        {"text": "a", "two": "b", "tags": ["9"]},
        {"text": "b", "two": "a", "tags": []},
        {"text": "a", "two": "c", "tags": ["9"]},
        {"text": "a", "two": "c", "tags": ["10", "9"]},
    ]
    pl.DataFrame(rows + rest, schema_overrides={"tags": pl.List(pl.String)}).write_parquet(tmp_path / "x.parquet")
    counts, _, examples = several(tmp_path / "x.parquet", tmp_path / "out", text_pair_column="two")
    assert examples.columns == ["source_row", "text_id", "pair_text_id", "labels", "label_indices", "split"]
    assert (counts["conflicting_rows"], counts["conflicting_pairs"]) == (2, 1)
    assert examples["labels"].to_list()[:2] == [["9"], []]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            [{"a": 1}],
            r"x\.parquet, labels\n  expected: lists of names(.|\n)*a column of Struct(.|\n)*prepare\.labels_column",
        ),
        ([0.5], r"a column of Float64"),
        ([[0.5]], r"a column of List\(Float64\)"),
        ([3], r"a column of Int64(.|\n)*prepare\.label_column if it holds one label each"),
        ([["a"], None, ["b", None]], r"x\.parquet, row 2 \(from 0\)\n.*\n  found:    a null in \['b', None\]"),
    ],
)
def test_columns_that_hold_no_label_lists(tags: list[Any], message: str, tmp_path: Path) -> None:
    pl.DataFrame({"text": ["t"] * len(tags), "tags": tags}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=message):
        several(tmp_path / "x.parquet", tmp_path / "out")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ('{"a": 1}', "a list of labels as target .*\n  found:    a JSON dict"),
        ("0.5", "a list of labels as target .*\n  found:    a JSON float"),
        ('"a|b"', "a list of labels as target .*\n  found:    a JSON str"),
        ('["a", 0.5]', "strings or whole numbers in the list target\n  found:    a JSON float"),
        ("[true]", "strings or whole numbers in the list target\n  found:    a JSON bool"),
        ("[null]", "strings or whole numbers in the list target\n  found:    a JSON NoneType"),
        ('["\\ud800"]', "Unicode text as target\n  found:    half a surrogate pair"),
    ],
)
def test_a_json_value_that_is_no_label_list_is_named_with_its_line(tags: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"text": "a", "tags": ["x"]}}\n\n{{"text": "b", "tags": {tags}}}\n')
    with pytest.raises(UserError, match=rf"x\.jsonl, line 3\n  expected: {message}"):
        several(tmp_path / "x.jsonl", tmp_path / "out")


def test_a_folder_has_one_label_each(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.txt").write_text("x")
    with pytest.raises(UserError, match=r"a table, for prepare\.labels_column\n  found:    a folder of text files"):
        several(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([["b", "a", "b"], [], None]),
        pl.Series([["a", "b"], [], None], dtype=pl.List(pl.Categorical)),
        pl.Series([["b", "a"], [], None], dtype=pl.List(pl.Enum(["b", "a"]))),
        pl.Series(["b| a|", "|", None]),
        pl.Series(["b|a", "", None], dtype=pl.Categorical),
    ],
)
def test_label_sets(values: pl.Series) -> None:
    found = as_label_sets(values, "x", "|")
    assert found.to_list() == [["a", "b"], [], None]
    assert label_names(found) == ["a", "b"]


VECTORS: list[list[Any]] = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("kind", [int, bool, float, str])
def test_vectors_of_0_and_1_are_the_positions_of_1(kind: type, tmp_path: Path) -> None:
    """Also written as a string; and `prepare` says how it took them."""
    values = [[kind(number) for number in vector] for vector in VECTORS] * 20
    frame = pl.DataFrame({"text": [f"text {i}" for i in range(60)], "tags": values})
    frame.write_parquet(tmp_path / "x.parquet")
    frame.write_ndjson(tmp_path / "x.jsonl")
    frame.with_columns(pl.Series("tags", list(map(str, values)))).write_csv(tmp_path / "x.csv")
    for name in ("x.parquet", "x.jsonl", "x.csv"):
        counts, _, examples = several(tmp_path / name, tmp_path / "out")
        assert examples["labels"].to_list()[:3] == [["0", "2"], [], ["1"]], name
        told = f"vectors of 0 and 1 in {tmp_path / name}: each label is named by its position, from 0"
        assert told in counts["notes"]


@pytest.mark.parametrize("values", [[[0], [1], [0, 1]], [[3, 1], [0, 0]], [["x", "x"], ["0"]]])
def test_numbers_that_are_no_vectors_are_labels(values: list[Any]) -> None:
    expected = [sorted({str(value) for value in some}) for some in values]
    assert as_label_sets(pl.Series(values), "x").to_list() == expected


@pytest.mark.parametrize("values", [[[1, 0], [0, 1]], [[1, 0], [0, 0, 1]], [[1.0, 0.0], [0.0]], [[True], []]])
def test_what_may_be_vectors_and_may_not_is_refused(values: list[Any]) -> None:
    with pytest.raises(UserError, match=r"lists of labels, or vectors of 0 and 1(.|\n)*write the labels' names"):
        as_label_sets(pl.Series(values), "x")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["['a', 'b']", "['a']", "[]", "", None], [["a", "b"], ["a"], [], [], None]),
        (['["a", "b\\u00e9"]', '["a|b"]'], [["a", "bé"], ["a|b"]]),
        ([r"""['it\'s', "x"]""", "[ 'y' ,]"], [["it's", "x"], ["y"]]),
        (["[1, 2]", "[2]"], [["1", "2"], ["2"]]),
        (["[100000000000000000000]", "[2]"], [["100000000000000000000"], ["2"]]),
        (['["\\ud83d\\ude00"]'], [["😀"]]),
        (["('a',)", "{'b', 'a'}"], [["a"], ["a", "b"]]),
        (["[a]", "b"], [["[a]"], ["b"]]),
        (["[a]|[b]", "[a]"], [["[a]", "[b]"], ["[a]"]]),
        (["Trade, Industry", "law"], [["Trade, Industry"], ["law"]]),
    ],
)
def test_a_list_that_is_written_as_a_string(cells: list[str | None], expected: list[Any]) -> None:
    assert as_label_sets(pl.Series(cells), "x").to_list() == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["['a']", "b"], r"row 1 \(from 0\), labels\n.*lists as JSON writes them.*\n.*'b'"),
        (["['a' 'b']", "['a']"], r"row 0 .*\n.*lists as JSON(.|\n)*\['a' 'b'\]"),
        (["[1 2]", "[1]"], r"row 0 .*\n.*lists as JSON"),
        (["[a, b]"], r"lists as JSON"),
        (["[01]"], r"lists as JSON"),
        (["['a', true]"], r"lists as JSON"),
        (['["\\ud800"]'], r"lists as JSON"),
        (["[['a']]"], r"lists as JSON"),
        (["[__import__('os').getcwd()]"], r"lists as JSON"),
        (["a,b", "b", "a"], r"labels with '\|' between them\n.*'a,b'.*\n.*label_separator to ',', or to '\|'"),
        (["a", "a; b", "b"], r"row 1 (.|\n)*label_separator to ';'"),
    ],
)
def test_a_string_that_could_be_several_labels_is_refused(cells: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_label_sets(pl.Series(cells), "x")


def test_a_separator_that_is_named_is_the_separator() -> None:
    cells = pl.Series(["a,b", "b", "a"])
    assert as_label_sets(cells, "x", "|").to_list() == [["a,b"], ["b"], ["a"]]
    assert as_label_sets(cells, "x", ",").to_list() == [["a", "b"], ["b"], ["a"]]


def test_label_sets_of_few_kinds() -> None:
    empty = pl.List(pl.String)
    assert as_label_sets(pl.Series([None, None]), "x", "|").equals(pl.Series([None, None], dtype=empty))
    assert as_label_sets(pl.Series([[], []], dtype=pl.List(pl.Null)), "x", "|").equals(pl.Series([[], []], dtype=empty))
    assert as_label_sets(pl.Series([[2, 10]], dtype=pl.Array(pl.UInt8, 2)), "x", "|").to_list() == [["10", "2"]]
