"""What the tables say, against counts by hand."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.report.made_up import set_head, write_everything, write_results
from trainer.report.evaluation import read_results
from trainer.report.facts import split_facts
from trainer.report.findings import (
    against_baseline,
    calibration_errors,
    difference,
    far_off,
    per_label,
    ties,
    total_costs,
)
from trainer.results.intervals import wilson


def test_one_parameter_fewer_is_not_simpler(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path)
    for head in ("cayley", "fc"):
        set_head(results, head, test_low=0.85, test_high=0.87)
    assert "fc" not in {row["head"] for row in ties(read_results(results))}


def test_a_larger_head_is_no_tie(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path, chosen="mean")
    assert {row["head"] for row in ties(read_results(results))} == set()


def test_label_figures_match_a_count_by_hand(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path, seeds=3)
    with (results / "confusion.csv").open() as file:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    for row in per_label(read_results(results)):
        name = row["label"]
        right = pairs.count((name, name))
        assert row["recall"] == pytest.approx(right / sum(a == name for a, _ in pairs))
        assert row["precision"] == pytest.approx(right / sum(p == name for _, p in pairs))
        recall, precision = row["recall"], row["precision"]
        assert row["f1"] == pytest.approx(2 * recall * precision / (recall + precision))
        assert row["rows"] == 89
        wrong = [p for a, p in pairs if a == name != p]
        assert row["taken_for"] == max(set(wrong), key=lambda other: (wrong.count(other), other))


def test_labels_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path, labels=["01", "1", "NA", "true"])
    assert [row["label"] for row in per_label(read_results(results))] == ["01", "1", "NA", "true"]


@given(right=st.integers(0, 500), more=st.integers(0, 500))
def test_the_interval_solves_the_score_equation(right: int, more: int) -> None:
    rows = right + more or 1
    share = right / rows
    for end in wilson(share, rows):
        assert 0 <= end <= 1
        # both ends are where the score test's statistic equals z
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / rows), abs=1e-6)


def test_facts_of_any_shape_are_shown() -> None:
    shown = split_facts({
        "rows": 12345, "ratio": 0.25, "none": None, "bytes": 75_924_000, "ok": True, "labels": {"a": 0},
        "characters": {"max": 71}, "examples": {"train": 2, "test": 1},
        "per_label": {"train": {"a": 2}, "test": {"b": 1}},
        "many": {str(i): i for i in range(50)}, "list": [1, 2], "notes": ["a note"],
    })  # fmt: skip
    assert shown == {
        "plain": [
            ("rows", "12,345"), ("ratio", "0.25"), ("none", "–"), ("size", "75.9\u00a0MB"), ("ok", "True"),
            ("labels", "1"), ("characters, max", "71"), ("many", "50"), ("list", "2"),
        ],
        "by_split": [
            ("examples", [2, None, 1]),
            ("per label: a", [2, None, None]),
            ("per label: b", [None, None, 1]),
        ],
        "notes": ["a note"],
    }  # fmt: skip


def test_the_comparison_is_with_one_baseline_and_the_heads_of_the_table(tmp_path: Path) -> None:
    results, _, _ = write_everything(tmp_path)
    table = pl.read_csv(results / "comparison.csv", infer_schema=False)
    strange = table.with_columns(baseline=pl.lit("mean"))
    unknown = table.head(1).with_columns(head=pl.lit("gone"))
    pl.concat([strange, table, unknown]).write_csv(results / "comparison.csv")
    read = read_results(results)
    compared = against_baseline(read)
    assert compared is not None
    assert set(compared["baseline"]) == {"last"}
    assert compared["head"].to_list() == table["head"].to_list()
    assert compared.filter("control")["head"].to_list() == ["words", "majority"]
    chosen = difference(read)
    assert chosen is not None
    assert chosen["head"] == "cayley"
    assert against_baseline(read_results(write_results(tmp_path / "old")[0])) is None


def test_calibration_errors_are_those_of_the_table_of_calibration(tmp_path: Path) -> None:
    results, _, _ = write_everything(tmp_path)
    errors = calibration_errors(read_results(results))
    assert errors == {"cayley": pytest.approx(0.04)}  # every bin is 0.04 too sure; of others nothing was measured
    assert calibration_errors(read_results(write_results(tmp_path / "old")[0])) == {}


@pytest.mark.parametrize(("score", "off"), [(0.60, ["c"]), (0.65, []), (0.75, [])])
def test_a_control_is_far_off_by_the_heads_own_spread(score: float, off: list[str]) -> None:
    board = pl.DataFrame({
        "head": ["a", "b", "c"], "control": [False, False, True],
        "test_low": [0.80, 0.90, score], "test_score": [0.82, 0.93, score], "test_high": [0.85, 0.96, score],
    })  # fmt: skip
    assert far_off(board) == off


def test_what_each_way_costs_in_all(tmp_path: Path) -> None:
    """LoRA needs no extraction, a control on another cache had one of its own, and a page may know of none."""
    results, _ = write_results(tmp_path)
    read = read_results(results)
    extraction = {"texts": 20, "texts_computed": 20, "tokens": 300, "tokens_per_second": 60.0, "seconds": 11.0}
    costs = {row["head"]: row for row in total_costs(read, extraction)}
    for row in read.rows:
        of_head = read.runs.filter(head=row["head"])["train_seconds"].median()
        assert isinstance(of_head, float)
        if row["head"] in costs:
            assert costs[row["head"]]["total_seconds"] == pytest.approx(11.0 + of_head)
    assert costs.keys() == {row["head"] for row in read.rows if not row["control"]}
    assert [row["total_seconds"] for row in costs.values()] == sorted(row["total_seconds"] for row in costs.values())
    assert total_costs(read, {"model": "a"}) == []
