"""Confident errors and scores by length, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from scipy import stats

from tests.trainer.report.made_up import words, write_everything
from trainer.report import report
from trainer.report.on_test.confident_errors import SHOWN, confident_errors
from trainer.report.on_test.text_length import by_length
from trainer.results.intervals import wilson


def write(folder: Path, rows: list[tuple[int, str, str, str, float]], texts: dict[str, str]) -> Path:
    """Answers of the head `ours`: seed, text id, label, prediction and its probability; and the texts."""
    (folder / "predictions").mkdir()
    columns = ["seed", "text_id", "label", "prediction", "probability"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "predictions" / "ours.parquet")
    pl.DataFrame({"text_id": list(texts), "text": list(texts.values())}).write_parquet(folder / "texts.parquet")
    return folder / "texts.parquet"


def test_the_most_confident_errors_come_first(tmp_path: Path) -> None:
    answers = {  # by text: a prediction and its probability by seed; every label is x
        "sure": [("y", 0.9), ("y", 0.8), ("x", 0.99)],
        "less": [("y", 0.6), ("y", 0.6), ("y", 0.6)],
        "right": [("x", 1.0), ("x", 1.0), ("y", 1.0)],
        "torn": [("y", 0.7), ("z", 0.5), ("y", 0.5)],
    }
    rows = [(seed, text, "x", *given[seed]) for seed in range(3) for text, given in answers.items()]
    found = confident_errors(tmp_path, write(tmp_path, rows, {name: name.upper() for name in answers}), "ours")
    assert [(row["text"], row["prediction"]) for row in found.rows] == [("SURE", "y"), ("LESS", "y"), ("TORN", "y")]
    assert [row["confidence"] for row in found.rows] == pytest.approx([0.85, 0.6, 0.6])
    assert found.wrong == 3


def test_at_most_ten_are_shown_with_label_and_confidence(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    page = report(results, facts, tmp_path / "r.html", texts).read_text()
    section = page[page.index('<h2 id="errors">') :].split("</section>")[0]
    assert section.count("<blockquote>") == SHOWN == 10
    assert "10 of 64 that most seeds get wrong." in words(section)
    # the last example is sure of a wrong answer: 441 is the last one that 7 divides
    first = words(section[section.index("<li>") : section.index("</li>")])
    assert "number 441" in first
    assert "confidence 94.1 %" in first


def test_without_probabilities_or_texts_there_is_no_such_section(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    assert 'id="errors"' not in report(results, facts, tmp_path / "r.html").read_text()
    path = results / "predictions" / "cayley.parquet"
    pl.read_parquet(path).drop("probability").write_parquet(path)
    page = report(results, facts, tmp_path / "r.html", texts).read_text()
    assert 'id="errors"' not in page
    assert 'href="#errors"' not in page
    assert 'id="lengths"' in page


def test_quarters_by_length_match_a_count_by_hand(tmp_path: Path) -> None:
    texts = {f"t{i:02d}": "a" * (i + 1) for i in range(40)}
    right = [[(i * 7 + seed) % 3 > 0 for i in range(40)] for seed in range(2)]
    rows = [(seed, name, "x", "x" if right[seed][i] else "y", 0.9) for seed in range(2) for i, name in enumerate(texts)]
    found = by_length(tmp_path, write(tmp_path, rows, texts), ["ours", "missing"], "accuracy")
    assert [(row["head"], row["part"], row["rows"]) for row in found] == [
        ("ours", "1–10", 10), ("ours", "11–20", 10), ("ours", "21–30", 10), ("ours", "31–40", 10)
    ]  # fmt: skip
    for part, row in enumerate(found):
        inside = [right[seed][i] for seed in range(2) for i in range(10 * part, 10 * part + 10)]
        assert row["score"] == pytest.approx(sum(inside) / 20)
        assert (row["low"], row["high"]) == pytest.approx(wilson(sum(inside) / 20, 10))


def test_equally_long_texts_stay_together(tmp_path: Path) -> None:
    texts = {f"t{i:02d}": "a" * (3 if i < 30 else 9) for i in range(40)}
    rows = [(0, name, "x", "x", 0.9) for name in texts]
    path = write(tmp_path, rows, texts)
    found = by_length(tmp_path, path, ["ours"], "accuracy")
    assert [(row["part"], row["rows"]) for row in found] == [("3", 30), ("9", 10)]
    pl.DataFrame({"text_id": list(texts), "text": ["same"] * 40}).write_parquet(path)
    assert by_length(tmp_path, path, ["ours"], "accuracy") == []


def test_of_scores_it_is_the_correlation_and_of_pairs_both_lengths(tmp_path: Path) -> None:
    count = 40
    texts = {f"t{i:02d}": "a" * (i + 1) for i in range(count)} | {f"p{i:02d}": "b" * (i + 1) for i in range(count)}
    scores = [float((i * 13) % count) for i in range(count)]
    guesses = [score + (i * 5) % 9 for i, score in enumerate(scores)]
    ids = {"text_id": [f"t{i:02d}" for i in range(count)], "pair_text_id": [f"p{i:02d}" for i in range(count)]}
    path = write(tmp_path, [(0, "t00", "x", "x", 0.9)], texts)
    table = pl.DataFrame({"seed": [0] * count, **ids, "score": scores, "prediction": guesses})
    table.write_parquet(tmp_path / "predictions" / "ours.parquet")
    found = by_length(tmp_path, path, ["ours"], "spearman")
    assert [row["part"] for row in found] == ["2–20", "22–40", "42–60", "62–80"]
    for part, row in enumerate(found):
        inside = slice(10 * part, 10 * part + 10)
        assert row["score"] == pytest.approx(stats.spearmanr(scores[inside], guesses[inside]).statistic)
        assert row["low"] < row["score"] < row["high"]
    assert by_length(tmp_path, path, ["ours"], "r2") == []


def test_lengths_are_on_the_page_with_examples_and_intervals(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    page = report(results, facts, tmp_path / "r.html", texts).read_text()
    section = page[page.index('<h2 id="lengths">') :].split("</section>")[0]
    rows = by_length(results, texts, ["cayley", "last"], "accuracy")
    assert {row["head"] for row in rows} == {"cayley", "last"}
    assert sum(row["rows"] for row in rows) == 2 * 445
    for row in rows:
        low, high = (f"{100 * row[end]:.1f}" for end in ("low", "high"))
        assert f"{row['part']}{row['rows']}{100 * row['score']:.1f}{low}{high}" in words(section).replace(" ", "")
