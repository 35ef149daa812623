"""Prepare, pairs of texts: their tables against a twin of plain loops, their splits, contradictions and sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from ilse.core.tables import SPLITS
from tests.pipeline.prepared import SHARED, digest, drawn, plain, run

Row = tuple[str | None, str | None, str | None]
words = st.sampled_from([None, "", " ", "a", "a ", "b", "é", "e\u0301", "x\ny", "x\r\ny", "c"])
rows_of = st.lists(st.tuples(words, words, st.sampled_from([None, "", "1", "2"])), max_size=30)
# Enough of the rest for each split to have an example.
REST: list[Row] = [(f"text {i}", f"text {i + 7}", str(i % 2)) for i in range(60)]

rerun = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def write(path: Path, rows: list[Row]) -> Path:
    """Parquet, CSV, TSV or JSON Lines, by the ending; columns one, two, label."""
    frame = pl.DataFrame(rows, schema={"one": pl.String, "two": pl.String, "label": pl.String}, orient="row")
    writers: dict[str, Callable[[], Any]] = {
        ".parquet": lambda: frame.write_parquet(path),
        ".csv": lambda: frame.write_csv(path),
        ".tsv": lambda: frame.write_csv(path, separator="\t"),
        ".jsonl": lambda: frame.write_ndjson(path),
    }
    writers[path.suffix]()
    return path


def pairs(path: Path | dict[str, str], out: Path, **more: Any) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    return run(path, out, text_column="one", text_pair_column="two", **more)


def scored(path: Path | dict[str, str], out: Path, **more: Any) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    return pairs(path, out, score_column="label", **more)


def one_by_one(rows: list[Row], ordered: bool) -> tuple[list[str], list[tuple[int, str, str, str, str]]]:
    """The obvious twin of `prepare` with drawn splits, seed 0: texts, and examples (row, text, text, target, split)."""
    usable = [(i, plain(a), plain(b), target) for i, (a, b, target) in enumerate(rows) if plain(a) and plain(b)]
    full = [(i, a, b, target) for i, a, b, target in usable if target]
    texts = list(dict.fromkeys(chain.from_iterable((a, b) for _, a, b, _ in full)))
    targets: dict[tuple[str, ...], set[str]] = {}
    for _, a, b, target in full:
        targets.setdefault((a, b) if ordered else tuple(sorted((a, b))), set()).add(target)
    return texts, [
        (i, a, b, target, drawn(digest(":".join(sorted((digest(a), digest(b)))))))
        for i, a, b, target in full
        if len(targets[(a, b) if ordered else tuple(sorted((a, b)))]) == 1
    ]


@pytest.mark.parametrize(("prepared", "ordered"), [(pairs, True), (scored, False)])
@rerun
@given(rows=rows_of)
def test_the_tables_equal_their_twin(prepared: Any, ordered: bool, rows: list[Row], tmp_path: Path) -> None:
    counts, texts, examples = prepared(write(tmp_path / "x.parquet", rows + REST), tmp_path / "out")
    expected_texts, expected = one_by_one(rows + REST, ordered)
    assert texts.rows() == [(digest(text), text) for text in expected_texts]
    named = dict(texts.iter_rows())
    found = [
        (row, named[a], named[b], target if ordered else f"{target:.0f}", split)
        for row, a, b, target, split in examples.drop("label_index", strict=False).iter_rows()
    ]
    assert found == expected
    dropped = counts["empty_texts"] + counts["missing_targets"] + counts["conflicting_rows"] + counts["leaks"]
    assert counts["source_rows"] - dropped == sum(counts["examples"].values()) == examples.height
    same = {((a, b) if ordered else tuple(sorted((a, b))), target) for _, a, b, target, _ in expected}
    assert counts["duplicates"] == len(expected) - len(same)
    stands: dict[str, set[str]] = {}
    for _, a, b, _, split in expected:
        stands.setdefault(a, set()).add(split)
        stands.setdefault(b, set()).add(split)
    assert counts["texts_in_several_splits"] == sum(len(splits) > 1 for splits in stands.values())


@rerun
@given(rows=rows_of, more=rows_of)
def test_appending_moves_no_text_and_no_split(rows: list[Row], more: list[Row], tmp_path: Path) -> None:
    columns = ["text_id", "pair_text_id", "split"]
    _, old_texts, old = pairs(write(tmp_path / "x.parquet", REST + rows), tmp_path / "old")
    _, new_texts, new = pairs(write(tmp_path / "x.parquet", REST + rows + more), tmp_path / "new")
    assert new_texts.head(old_texts.height).equals(old_texts)
    both = old.select(columns).unique().join(new.select(columns).unique(), on=columns[:2])
    assert (both["split"] == both["split_right"]).all()


def test_a_row_that_contradicts_an_old_one_moves_no_text(tmp_path: Path) -> None:
    _, old, _ = pairs(write(tmp_path / "x.parquet", REST), tmp_path / "old")
    contradiction: list[Row] = [("text 0", "text 7", "1"), ("new", "text 0", "1"), ("text 1", "newer", "0")]
    _, new, examples = pairs(write(tmp_path / "x.parquet", REST + contradiction), tmp_path / "new")
    assert new["text"].to_list() == [*old["text"], "new", "newer"]
    assert examples["source_row"].to_list() == [*range(1, 60), 61, 62]


@rerun
@given(parts=st.tuples(rows_of, rows_of, rows_of))
def test_given_splits_share_no_pair_in_either_order(parts: tuple[list[Row], ...], tmp_path: Path) -> None:
    paths = {}
    for split, rows, own in zip(SPLITS, parts, ("p", "q", "r"), strict=True):
        full: list[Row] = [*rows, (f"{own}1", "a", "1"), ("a", f"{own}2", "2")]
        paths[split] = str(write(tmp_path / f"{split}.parquet", full))
    counts, _, examples = pairs(paths, tmp_path / "out", conflicts="keep")
    splits: dict[frozenset[str], set[str]] = {}
    for first, second, split in examples.select("text_id", "pair_text_id", "split").iter_rows():
        splits.setdefault(frozenset((first, second)), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    whole = [row for row in parts[2] if plain(row[0]) and plain(row[1]) and row[2]]
    assert counts["examples"]["test"] == len(whole) + 2
    assert counts["texts_in_several_splits"] >= 1  # "a", in other pairs


DATA: dict[str, list[Row]] = {
    "test": [("a", "b", "1"), ("b", "a", "2"), ("c", "d", "1"), ("c", "d", "1")],
    "validation": [("v", "w", "1"), ("d", "c", "1"), ("a", "w", "2")],
    "train": [
        *[("b", "a", "1"), ("w", "v", "2"), ("t", "", "1"), (None, "t", "1"), ("t", "u", None), ("t", "u", "1")],
        *[("t", "x", "2"), ("x", "t", "1"), ("y", "t", "1"), ("y", "t", "2")],
    ],
}


def three(folder: Path) -> dict[str, str]:
    return {split: str(write(folder / f"{split}.parquet", rows)) for split, rows in DATA.items()}


def test_notes_and_counts_of_labelled_pairs(tmp_path: Path) -> None:
    counts, texts, examples = pairs(three(tmp_path), tmp_path / "out")
    assert texts["text"].to_list() == ["a", "b", "c", "d", "v", "w", "t", "u", "x", "y"]
    assert counts["notes"] == [
        "rows dropped because the text is empty: 2",
        "rows dropped because the label is missing: 1",
        "rows dropped because the pair is also in another split (test keeps it, then validation): 3",
        "texts in several splits, as parts of different pairs: 1",  # a
        "rows dropped because the pair has several labels: 2",
        "pairs with several labels: 1",  # y t: the swapped pairs are other examples
        "duplicate rows kept (same pair, label and split): 1",
    ]
    assert examples.columns == ["source_row", "text_id", "pair_text_id", "label", "label_index", "split"]
    assert examples["source_row"].to_list() == [0, 1, 2, 3, 0, 2, 5, 6, 7]
    assert json.loads(json.dumps(counts)) == counts


def test_swapped_scored_pairs_are_the_same_example(tmp_path: Path) -> None:
    counts, _, examples = scored(three(tmp_path), tmp_path / "out")
    assert examples.schema == {
        "source_row": pl.Int64,
        "text_id": pl.String,
        "pair_text_id": pl.String,
        "score": pl.Float64,
        "split": pl.String,
    }
    assert (counts["conflicting_rows"], counts["conflicting_pairs"]) == (6, 3)  # a b, t x, y t
    assert examples["source_row"].to_list() == [2, 3, 0, 2, 5]
    rows = [*REST, ("text 10", "text 3", "1"), ("text 11", "text 4", "0")]
    counts, _, _ = scored(write(tmp_path / "x.parquet", rows), tmp_path / "out")
    assert (counts["conflicting_rows"], counts["duplicates"]) == (0, 2)
    counts, _, _ = pairs(write(tmp_path / "x.parquet", rows), tmp_path / "out")
    assert (counts["conflicting_rows"], counts["duplicates"]) == (0, 0)


def test_drawn_splits_are_those_of_the_unordered_pair(tmp_path: Path) -> None:
    swapped: list[Row] = [(b, a, target) for a, b, target in REST]
    counts, _, examples = pairs(write(tmp_path / "x.parquet", REST + swapped), tmp_path / "out")
    assert examples["split"].head(60).equals(examples["split"].tail(60))
    assert counts["notes"][0] == "splits drawn by pair and seed 0: train, validation, test"


def test_a_contradiction_names_both_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [*REST, ("text 10", "text 3", "0")])
    pairs(path, tmp_path / "out", conflicts="error")
    message = (
        r"rows 3, 60\n  expected: .* for a pair\n  found:    1\.0, 0\.0 for 'text 3' and 'text 10' \(1 such pairs\)"
    )
    with pytest.raises(UserError, match=message):
        scored(path, tmp_path / "out", conflicts="error")
    counts, _, examples = scored(path, tmp_path / "out", conflicts="keep")
    assert (examples.height, counts["conflicting_rows"]) == (61, 2)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_every_table_format_gives_the_same_tables(ending: str, tmp_path: Path) -> None:
    rows: list[Row] = [*REST, (" e\u0301", "two\nlines", "1"), ("", "x", "1"), ("x", "", "0")]
    _, texts, examples = pairs(write(tmp_path / "x.parquet", rows), tmp_path / "parquet")
    _, same_texts, same = pairs(write(tmp_path / f"x.{ending}", rows), tmp_path / "out")
    assert texts["text"].to_list()[-2:] == ["é", "two\nlines"]
    assert (same_texts.equals(texts), same.equals(examples)) == (True, True)
    _, texts, _ = pairs(tmp_path / f"x.{ending}", tmp_path / "out", use="first_line")
    assert texts["text"].to_list()[-2:] == ["é", "two"]


def test_sources_without_a_second_text(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.txt").write_text("x")
    with pytest.raises(UserError, match=r"a table, for prepare\.text_pair_column\n  found:    a folder of text files"):
        pairs(tmp_path / "data", tmp_path / "out")
    with pytest.raises(UserError, match=r"a column 'too'(.|\n)*did you mean 'two'"):
        run(write(tmp_path / "x.csv", REST), tmp_path / "out", text_column="one", text_pair_column="too")
    pl.DataFrame({"one": ["a"], "two": [1], "label": ["x"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"a column of strings\n  found:    Int64\n.*prepare\.text_pair_column"):
        pairs(tmp_path / "x.parquet", tmp_path / "out")
    (tmp_path / "x.jsonl").write_text('{"one": "a", "two": ["b"], "label": 1}')
    with pytest.raises(
        UserError, match=r"x\.jsonl, line 1\n  expected: a string as text_pair\n  found:    a JSON list"
    ):
        pairs(tmp_path / "x.jsonl", tmp_path / "out")


def test_a_file_without_rows_beside_one_with_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.jsonl", REST)
    (tmp_path / "in" / "b.jsonl").touch()
    _, _, examples = pairs(tmp_path / "in", tmp_path / "out", format="jsonl")
    assert examples.height == 60


@pytest.mark.skipif(not (SHARED / "stsbenchmark").is_dir(), reason="needs the measuring data beside the repository")
def test_stsbenchmark(tmp_path: Path) -> None:
    data = {split: pl.read_parquet(SHARED / "stsbenchmark" / f"{split}.parquet").rows() for split in SPLITS}
    order = [(split, frozenset(map(plain, row[:2])), row[2]) for split in reversed(SPLITS) for row in data[split]]
    home = {pair: split for split, pair, _ in reversed(order)}
    kept = [(split, pair, score) for split, pair, score in order if home[pair] == split]
    scores: dict[frozenset[str], set[float]] = {}
    for _, pair, score in kept:
        scores.setdefault(pair, set()).add(score)
    counts, texts, examples = run(
        SHARED / "stsbenchmark", tmp_path, text_column="text_a", text_pair_column="text_b", score_column="score"
    )
    assert counts["source_rows"] == 8_628
    assert counts["leaks"] == len(order) - len(kept)
    assert counts["conflicting_pairs"] == sum(len(found) > 1 for found in scores.values())
    assert examples.height == sum(len(scores[pair]) == 1 for _, pair, _ in kept)
    both = [plain(text) for split in reversed(SPLITS) for row in data[split] for text in row[:2]]
    assert texts["text"].to_list() == list(dict.fromkeys(both))
    assert counts["texts_in_several_splits"] > 0
