"""Several evaluations on one page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ilse.core.errors import UserError
from tests.trainer.report.made_up import HOSTILE, set_head, words, write_everything, write_results
from trainer.report import compare


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two runs on the same test examples; the second chose another head."""
    first = write_everything(tmp_path / "a")[0]
    second = write_everything(tmp_path / "b", chosen="mean", seeds=2)[0]
    return [f"one={first}", f"two={second}"]


def text_of(runs: list[str], folder: Path) -> str:
    return words(compare(runs, folder / "compare.html").read_text())


def change_metrics(run: str, **values: Any) -> None:
    path = Path(run.partition("=")[2]) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_head_in_every_run_and_what_each_chose(two: list[str], tmp_path: Path) -> None:
    text = text_of(two, tmp_path)
    for run in two:
        name, _, folder = run.partition("=")
        board = pl.read_csv(Path(folder) / "leaderboard.csv")
        for row in board.to_dicts():
            assert f"{100 * row['test_score']:.1f}" in text
        assert f"{name} chose {board['head'][0]}, {100 * board['test_score'][0]:.1f} %" in text
    assert "All runs were measured on the same test examples." in text
    page = (tmp_path / "compare.html").read_text()
    assert page.count('<span class="tag">chosen</span>') == page.count('<span class="tag quiet">highest</span>') == 2


def test_no_head_is_called_highest_beside_a_better_control(two: list[str], tmp_path: Path) -> None:
    set_head(Path(two[1].partition("=")[2]), "words", test_low=0.99, test_score=0.99, test_high=0.99)
    page = compare(two, tmp_path / "c.html").read_text()
    assert "In two the control words is ahead of every head, with 99.0 % on test." in words(page)
    assert page.count('<span class="tag quiet">highest</span>') == 1
    assert page.count('<span class="tag quiet">ahead of all heads</span>') == 1
    row = re.search(r'data-value="words".*?</tr>', page, re.DOTALL).group()  # type: ignore[union-attr]
    assert "ahead of all heads 99.0" in words(row)


def test_a_control_as_good_as_the_best_head_is_not_ahead(two: list[str], tmp_path: Path) -> None:
    folder = Path(two[1].partition("=")[2])
    best = pl.read_csv(folder / "leaderboard.csv").filter(~pl.col("control"))["test_score"].max()
    set_head(folder, "words", test_low=best, test_score=best, test_high=best)
    page = compare(two, tmp_path / "c.html").read_text()
    assert page.count('<span class="tag quiet">highest</span>') == 2
    assert "ahead" not in words(page)


def test_the_gain_is_that_of_each_run_s_report(two: list[str], tmp_path: Path) -> None:
    text = text_of(two, tmp_path)
    for run in two:
        folder = Path(run.partition("=")[2])
        head = pl.read_csv(folder / "leaderboard.csv").filter("chosen")["head"].item()
        gap = pl.read_csv(folder / "comparison.csv").filter(head=head)["difference_points"].item()
        assert f"({gap:+.1f} points over the last layer)" in text


def test_a_head_that_a_run_lacks_is_a_dash(two: list[str], tmp_path: Path) -> None:
    board = Path(two[1].partition("=")[2]) / "leaderboard.csv"
    pl.read_csv(board).filter(pl.col("head") != "fc").write_csv(board)
    page = compare(two, tmp_path / "c.html").read_text()
    row = re.search(r'data-value="fc".*?</tr>', page, re.DOTALL).group()  # type: ignore[union-attr]
    assert words(row).rstrip().endswith("–")


def test_other_test_examples_are_said(two: list[str], tmp_path: Path) -> None:
    path = Path(two[1].partition("=")[2]) / "predictions" / "cayley.parquet"
    pl.read_parquet(path).with_columns(label=pl.lit("sport")).write_parquet(path)
    text = text_of(two, tmp_path)
    assert re.search(r"The test examples differ \(digests of text ids and targets: one \w{12}, two \w{12}\)\.", text)


def test_the_order_of_the_examples_is_no_difference(two: list[str], tmp_path: Path) -> None:
    path = Path(two[1].partition("=")[2]) / "predictions" / "cayley.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    assert "All runs were measured on the same test examples." in text_of(two, tmp_path)


def test_other_sizes_labels_and_unknown_examples_are_said(two: list[str], tmp_path: Path) -> None:
    change_metrics(two[1], test_rows=99, labels=["a", "b"])
    results = Path(two[1].partition("=")[2])
    pl.read_csv(results / "confusion.csv", infer_schema=False, n_rows=2 * 99).write_csv(results / "confusion.csv")
    for path in (results / "predictions").iterdir():
        path.unlink()
    text = text_of(two, tmp_path)
    assert "The test sets differ in size: one 445 examples, two 99 examples." in text
    assert "The runs have different labels." in text
    assert "It is not known whether the test examples are the same: two has no predictions." in text


def test_another_metric_is_refused(two: list[str], tmp_path: Path) -> None:
    change_metrics(two[1], metric="kappa")
    with pytest.raises(UserError, match=r"run two(?s:.*)the figure of run one, accuracy(?s:.*)kappa"):
        compare(two, tmp_path / "c.html")


def test_a_run_without_results_is_refused(two: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing/leaderboard\.csv(?s:.*)no such file(?s:.*)run 'ilse evaluate' first"):
        compare([*two, str(tmp_path / "nothing")], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


@pytest.mark.parametrize(("runs", "found"), [(["a/res"], "1 run"), (["a/res", "b/res"], "res more than once")])
def test_runs_need_names_of_their_own(tmp_path: Path, runs: list[str], found: str) -> None:
    with pytest.raises(UserError, match=rf"{found}(?s:.*)ilse compare small="):
        compare(runs, tmp_path / "c.html")


def test_a_folder_may_hold_the_sign(tmp_path: Path) -> None:
    odd = write_results(tmp_path / "rate=1")[0].rename(tmp_path / "lr=0.1")
    plain = write_results(tmp_path / "plain")[0]
    assert "lr=0.1 chose cayley" in text_of([str(odd), f"plain={plain}"], tmp_path)


def test_a_hostile_name_stays_text_and_the_page_the_same(two: list[str], tmp_path: Path) -> None:
    runs = [f"{HOSTILE}={two[0].partition('=')[2]}", two[1]]
    first = compare(runs, tmp_path / "c.html").read_bytes()
    assert HOSTILE.encode() not in first
    assert compare(runs, tmp_path / "c.html").read_bytes() == first
