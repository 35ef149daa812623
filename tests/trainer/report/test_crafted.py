"""Results that no evaluation writes: said by file and column, and nothing of a library is shown."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ilse.core.errors import UserError
from tests.trainer.report.made_up import edit, write_everything
from trainer.report import as_markdown, compare, report
from trainer.report.charts.confusion_chart import confusion_chart
from trainer.report.evaluation import read_results
from trainer.report.facts import split_facts
from trainer.report.findings import SHOWN, per_label, shown_labels
from trainer.report.result_files import facts_of, named_results

SOON = 20.0


@pytest.mark.parametrize(
    ("file", "column", "value", "found"),
    [
        ("leaderboard.csv", "seeds", "0", "whole numbers from 1 in column seeds\n  found:    '0' in row 0"),
        ("leaderboard.csv", "rank", "", "whole numbers from 1 in column rank"),
        ("leaderboard.csv", "test_score", "many", "leaderboard.csv"),
        ("runs.csv", "seed", "1e300", "runs.csv"),
        ("analysis/cka.csv", "layer_b", "inf", "column layer_b\n  found:    'inf' in row 0 (from 0)"),
        ("analysis/classes.csv", "layer", "-1", "whole numbers from 0 in column layer"),
        ("layers.csv", "layer", "nan", "whole numbers from 0 in column layer"),
        ("curves/cayley.csv", "epoch", "1e18", "column epoch"),
        ("curves/cayley.csv", "epoch", "3", "one row for each head and seed and epoch"),
        ("runs.csv", "best_epoch", "2.5", "whole numbers from 0 in column best_epoch\n  found:    '2.5'"),
        ("runs.csv", "test_score", "61.2", "numbers from 0 to 1 in column test_score\n  found:    '61.2'"),
        ("leaderboard.csv", "val_low", "0.99", "numbers in column val_low up to those in val_score"),
        ("leaderboard.csv", "gain_points", "1e300", "numbers in column gain_points\n  found:    '1e300'"),
        ("leaderboard.csv", "chosen", "yes", "true or false in column chosen\n  found:    'yes'"),
        ("calibration.csv", "accuracy", "-1", "numbers from 0 to 1 in column accuracy"),
        ("comparison.csv", "p_holm", "2", "numbers from 0 to 1 in column p_holm"),
    ],
)
def test_a_wrong_cell_is_named_by_file_and_column(
    tmp_path: Path, file: str, column: str, value: str, found: str
) -> None:
    results, _, _ = write_everything(tmp_path)
    edit(results / file, **{column: pl.lit(value)})
    with pytest.raises(UserError, match="next:") as refused:
        read_results(results)
    assert f"{Path(file).name}\n" in str(refused.value)
    assert found in str(refused.value)


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("runs.csv", lambda table: table.slice(1), "5 rows of head cayley, one a seed"),
        ("confusion.csv", lambda table: table.slice(1), "2225 rows, for 5 seeds of 445 test rows"),
        ("runs.csv", lambda table: pl.concat([table, table.head(1)]), "one row for each head and seed"),
        ("layers.csv", lambda table: pl.concat([table, table.head(1)]), "more than one for layer 0"),
    ],
)
def test_a_row_too_few_or_too_many_is_said(
    tmp_path: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame], found: str
) -> None:
    results, _, _ = write_everything(tmp_path)
    change(pl.read_csv(results / name, infer_schema=False)).write_csv(results / name)
    with pytest.raises(UserError, match=rf"{name}\n(.|\n)*{found}"):
        read_results(results)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    results, _, _ = write_everything(tmp_path)
    lines = (results / "runs.csv").read_text().splitlines()
    (results / "runs.csv").write_text("\n".join([f"seed,{lines[0]}", *(f"7,{line}" for line in lines[1:])]))
    with pytest.raises(UserError, match=r"runs.csv\n(.|\n)*column seed twice"):
        read_results(results)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"seed": None}, "no seed"),
        ({"label": None}, "no label"),
        ({"text_id": pl.lit(1)}, "column text_id of type String"),
        ({"seed": pl.lit(b"x")}, "column seed of type Int64"),
        ({"label": pl.when(pl.int_range(pl.len()) > 0).then(pl.col("label"))}, "1 without one"),
        ({"text_id": pl.int_range(pl.len()).cast(pl.String)}, "the same examples in each seed"),
    ],
)
def test_answers_of_another_form_are_named_by_file_and_column(
    tmp_path: Path, columns: dict[str, pl.Expr | None], found: str
) -> None:
    results, facts, texts = write_everything(tmp_path)
    path = results / "predictions" / "cayley.parquet"
    changed = {name: value for name, value in columns.items() if value is not None}
    pl.read_parquet(path).drop(set(columns) - set(changed)).with_columns(**changed).write_parquet(path)
    runs = [f"a={results}", f"b={results}"]
    for write in (lambda: report(results, facts, tmp_path / "a", texts), lambda: compare(runs, tmp_path / "a")):
        with pytest.raises(UserError, match=rf"cayley.parquet\n(.|\n)*{found}"):
            write()


def test_answers_to_other_examples_than_the_chosen_head_s_are_refused(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    path = results / "predictions" / "last.parquet"
    pl.read_parquet(path).filter(pl.col("text_id") != f"{0:032x}").write_parquet(path)
    with pytest.raises(UserError, match=r"last.parquet\n +expected: answers to the examples of cayley.parquet"):
        report(results, facts, tmp_path / "a.html", texts)


def test_figures_that_are_missing_are_no_traceback(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    edit(results / "leaderboard.csv", test_score=pl.lit(""))
    for write in (lambda: report(results, facts, tmp_path / "a.html", texts), lambda: as_markdown(results, tmp_path)):
        with pytest.raises(
            UserError, match=r"leaderboard.csv\n +expected: .* in column test_score\n +found: +'' in row 0"
        ):
            write()
    assert not (tmp_path / "a.html").exists()


def test_what_still_can_t_be_drawn_names_the_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"results .*\n +expected: the figures of one evaluation"),
        named_results(tmp_path),
    ):
        raise KeyError("figure")


WRONG: list[Any] = ["many", [1], {"a": 1}, -1, 10**400, [[[[[[[[[[1]]]]]]]]]], True, None, "5"]


@pytest.mark.parametrize("seed", range(20))
def test_a_stage_s_figures_of_another_type_are_named(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    _, facts, _ = write_everything(tmp_path)
    values = json.loads(facts["extract"].read_text())
    key, value = draw.choice(["texts", "texts_computed", "tokens", "seconds"]), draw.choice(WRONG)
    facts["extract"].write_text(json.dumps(values | {key: value}))
    with pytest.raises(UserError, match=rf"results .*extract.json\n(.|\n)*{key}"):
        facts_of(facts["extract"])


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"\xff", b'{"a": NaN}'])
def test_what_is_no_json_of_a_stage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "extract.json").write_bytes(content)
    with pytest.raises(UserError, match=r"extract.json\n +expected: JSON"):
        facts_of(tmp_path / "extract.json")


def test_of_100_000_labels_some_are_drawn_and_it_is_said_how_many(tmp_path: Path) -> None:
    results, _, _ = write_everything(tmp_path)
    labels = [f"label {i:06}" for i in range(100_000)]
    wrong = [labels[(i + 1) % 1000] if i < 1000 else label for i, label in enumerate(labels)]
    pl.DataFrame({"actual": labels, "predicted": wrong}).write_csv(results / "confusion.csv")
    metrics = json.loads((results / "metrics.json").read_text()) | {"labels": labels, "test_rows": 20_000}
    (results / "metrics.json").write_text(json.dumps(metrics))
    started = time.monotonic()
    read = read_results(results)
    shown = shown_labels(read)
    chart = confusion_chart(read.confusion, shown, len(labels))
    assert [row["label"] for row in per_label(read)] == shown == labels[:SHOWN]
    assert "200 labels of 100000, those with the most wrong answers" in chart.words
    counts = {"examples_per_label": {split: dict.fromkeys(labels, 1) for split in ("train", "validation", "test")}}
    assert split_facts(counts)["by_split"] == [("examples per label, how many", [100_000] * 3)]
    assert time.monotonic() - started < SOON
