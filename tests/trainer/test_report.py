"""The report's figures, sentences and errors, on a made-up evaluation."""

from __future__ import annotations

import csv
import html
import json
import math
import random
import re
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilse.errors import UserError
from ilse.tables import SPLITS
from trainer.intervals import wilson
from trainer.report import report
from trainer.report.facts import split_facts
from trainer.report.findings import per_label, ties
from trainer.report.results import read_results

HEADS: dict[str, tuple[str, float, int]] = {
    "cayley": ("graph encoder, layers on a Cayley graph of SL(2, Z_n)", 0.861, 281_862),
    "fc": ("graph encoder, layers on the complete graph", 0.857, 281_861),
    "set": ("Set-Encoder: layers as a set, without order", 0.852, 214_789),
    "weighted": ("linear head on a learned weighted sum of all layers", 0.853, 2_916),
    "mean": ("linear head on the mean of all layers", 0.841, 2_885),
    "mlp": ("MLP on the last layer, the mean or the weighted sum", 0.846, 148_997),
    "best": ("linear head on the layer that does best on validation", 0.829, 2_885),
    "last": ("linear head on the last layer", 0.782, 2_885),
}
LABELS = ["business", "entertainment", "politics", "sport", "tech"]
HOSTILE = "</script><script>alert(1)</script>"
TEST_ROWS = 445


def write_results(
    folder: Path, labels: list[str] = LABELS, seeds: int = 5, chosen: str = "cayley", layers: int = 31
) -> tuple[Path, dict[str, Path]]:
    """A folder as train and evaluate write it, and two stages' facts; returns both."""
    draw = random.Random(0)
    results = folder / "results"
    (results / "curves").mkdir(parents=True)
    runs = [_run(draw, head, seed) for head in HEADS for seed in range(seeds)]
    _write(results / "runs.csv", runs)
    board = _leaderboard(runs, chosen)
    _write(results / "leaderboard.csv", board)
    names = ["embedding", *(f"block {i}" for i in range(1, layers - 1)), "final"]
    _write(results / "layers.csv", [_layer(draw, i, name, layers) for i, name in enumerate(names)])
    _write(results / "weights.csv", _weights(draw, names))
    for head in HEADS:
        of_head = [run for run in runs if run["head"] == head]
        _write(results / "curves" / f"{head}.csv", [row for run in of_head for row in _curve(draw, run)])
    _write(results / "confusion.csv", _confusion(draw, labels, seeds))
    best = board[0]
    metrics = {
        "metric": "accuracy",
        "chosen": {
            "head": best["head"],
            "val_score": best["val_score"],
            "test_score": best["test_score"],
            "gain_over_last_points": best["gain_points"],
        },
        "test_rows": TEST_ROWS, "validation_rows": 223, "train_rows": 1557, "labels": labels,
        "heads": {row["head"]: {"test_score": row["test_score"]} for row in board},
    }  # fmt: skip
    (results / "metrics.json").write_text(json.dumps(metrics))
    return results, _facts(folder, labels)


def _run(draw: random.Random, head: str, seed: int) -> dict[str, Any]:
    _, accuracy, parameters = HEADS[head]
    test = round((accuracy + draw.uniform(-0.011, 0.011)) * TEST_ROWS) / TEST_ROWS
    val = round((accuracy + 0.008 + draw.uniform(-0.01, 0.01)) * 223) / 223
    return {
        "head": head, "seed": seed, "best_epoch": draw.randint(9, 28), "val_score": val,
        "val_loss": 0.45 + draw.uniform(-0.03, 0.03), "test_score": test, "parameters": parameters,
        "train_seconds": 2 + parameters / 9e3 + draw.random(),
    }  # fmt: skip


def _leaderboard(runs: list[dict[str, Any]], chosen: str) -> list[dict[str, Any]]:
    rows = []
    for head, (summary, _, parameters) in HEADS.items():
        of_head = [run for run in runs if run["head"] == head]
        row: dict[str, Any] = {"rank": 0, "head": head, "summary": summary, "seeds": len(of_head)}
        for split in ("val", "test"):
            values = [run[f"{split}_score"] for run in of_head]
            row |= {f"{split}_score": median(values), f"{split}_low": min(values), f"{split}_high": max(values)}
        seconds = median(run["train_seconds"] for run in of_head)
        row |= {"gain_points": 0.0, "parameters": parameters, "share_percent": parameters / 134_515_008 * 100}
        rows.append(row | {"train_seconds": seconds, "chosen": head == chosen})
    last = next(row["test_score"] for row in rows if row["head"] == "last")
    rows.sort(key=lambda row: (not row["chosen"], -row["val_score"]))
    return [row | {"rank": i, "gain_points": 100 * (row["test_score"] - last)} for i, row in enumerate(rows, 1)]


def _layer(draw: random.Random, index: int, name: str, layers: int) -> dict[str, Any]:
    depth = index / (layers - 1)
    accuracy = 0.70 + 0.135 * math.sin(math.pi * min(depth * 0.85, 1)) - 0.02 * depth + draw.uniform(-0.008, 0.008)
    low, high = accuracy - draw.uniform(0.004, 0.012), accuracy + draw.uniform(0.004, 0.012)
    return {"layer": index, "name": name, "val_score": accuracy, "val_low": low, "val_high": high}


def _weights(draw: random.Random, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for head in ("weighted", "mlp"):
        raw = [math.exp(-(((i - 0.55 * len(names)) / 9) ** 2)) + 0.35 + draw.uniform(0, 0.1) for i in range(len(names))]
        for i, name in enumerate(names):
            weight = raw[i] / sum(raw)
            low, high = weight * 0.93, weight * 1.08
            rows.append({"head": head, "layer": i, "name": name, "weight": weight, "low": low, "high": high})
    return rows


def _curve(draw: random.Random, run: dict[str, Any]) -> list[dict[str, Any]]:
    large = run["parameters"] > 1e5
    rows = []
    for epoch in range(1, 31):
        train = 1.6 * math.exp(-epoch / (5 if large else 9)) + (0.05 if large else 0.38)
        val = 1.55 * math.exp(-epoch / 5) + 0.44 + (0.006 * epoch if large else 0.0) + draw.uniform(-0.02, 0.02)
        accuracy = run["val_score"] - 0.3 * math.exp(-epoch / 4)
        row = {"head": run["head"], "seed": run["seed"], "epoch": epoch}
        rows.append(row | {"train_loss": train, "val_loss": val, "val_score": accuracy})
    return rows


def _confusion(draw: random.Random, labels: list[str], seeds: int) -> list[dict[str, Any]]:
    near = {label: labels[(i + 2) % len(labels)] for i, label in enumerate(labels)}
    rows = []
    for i in range(TEST_ROWS * seeds):
        actual = labels[i % TEST_ROWS % len(labels)]
        other = near[actual] if draw.random() < 0.7 else draw.choice(labels)
        rows.append({"actual": actual, "predicted": actual if draw.random() < 0.84 else other})
    return rows


def _facts(folder: Path, labels: list[str]) -> dict[str, Path]:
    facts: dict[str, dict[str, Any]] = {
        "prepare": {
            "source_rows": 2225, "fallback_files": 1, "duplicates": 99, "leaks": 0, "texts": 2126,
            "examples": {"train": 1557, "validation": 223, "test": 445},
            "characters": {"total": 71_234, "mean": 33.506, "max": 71}, "labels": {n: i for i, n in enumerate(labels)},
            "examples_per_label": {
                split: dict.fromkeys(labels, count) for split, count in zip(SPLITS, (311, 45, 89), strict=True)
            },
            "notes": ["splits drawn by text and seed 0: train, validation, test"],
        },
        "extract": {
            "model": "HuggingFaceTB/SmolLM2-135M", "fingerprint": "9f2c41d07be35a18" * 4, "compute_type": "bfloat16",
            "texts": 2126, "texts_computed": 2126, "texts_truncated": 0, "tokens": 17_871, "tokens_per_second": 2611.4,
            "layers": 31, "dim": 576, "bytes": 75_924_000, "seconds": 12.4,
        },
    }  # fmt: skip
    paths = {stage: folder / f"{stage}.json" for stage in facts}
    for stage, figures in facts.items():
        paths[stage].write_text(json.dumps(figures))
    return paths


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([{k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()} for row in rows])


def page_of(folder: Path, **options: Any) -> str:
    results, facts = write_results(folder, **options)
    return report(results, facts, folder / "report.html").read_text(encoding="utf-8")


def words(page: str) -> str:
    """The page's text as a reader sees it, white space evened out."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", body)))


def edit(path: Path, **columns: pl.Expr) -> None:
    table = pl.read_csv(path, infer_schema=False)
    table.with_columns(**columns).write_csv(path)


def set_head(results: Path, head: str, **values: object) -> None:
    here = pl.when(pl.col("head") == head)
    edited = {name: here.then(pl.lit(str(value))).otherwise(pl.col(name)) for name, value in values.items()}
    edit(results / "leaderboard.csv", **edited)


def test_every_figure_of_the_leaderboard_is_on_the_page(tmp_path: Path) -> None:
    text = words(page_of(tmp_path))
    for row in pl.read_csv(tmp_path / "results" / "leaderboard.csv").to_dicts():
        assert f"{row['head']}{'chosen' if row['chosen'] else ''}{row['summary']}" in text
        for split in ("val", "test"):
            low, high = row[f"{split}_low"], row[f"{split}_high"]
            assert f"{100 * row[f'{split}_score']:.1f} {100 * low:.1f}–{100 * high:.1f}" in text
        assert f"{row['parameters']:,}" in text


def test_the_first_sentence_names_head_accuracy_range_and_gain(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    best = pl.read_csv(tmp_path / "results" / "leaderboard.csv").row(0, named=True)
    heading = words(re.search(r"<h1>.*?</h1>", page, re.DOTALL).group())  # type: ignore[union-attr]
    assert heading == (
        f"cayley, the head chosen on validation, has {100 * best['test_score']:.1f} % accuracy on test "
        f"({100 * best['test_low']:.1f}–{100 * best['test_high']:.1f} % over 5 seeds), "
        f"{best['gain_points']:.1f} points better than the last layer alone."
    )


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        (-1.234, ", 1.2 points worse than the last layer alone."),
        (0.04, ", no better than the last layer alone."),
        (-0.04, ", no better than the last layer alone."),
    ],
)
def test_a_head_that_gains_nothing_is_said_to_gain_nothing(tmp_path: Path, gain: float, sentence: str) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", gain_points=gain)
    assert sentence in words(report(results, facts, tmp_path / "r.html").read_text())


def test_without_last_the_gain_is_unknown(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    board = pl.read_csv(results / "leaderboard.csv").filter(pl.col("head") != "last")
    board.with_columns(gain_points=pl.lit(None, pl.Float64)).write_csv(results / "leaderboard.csv")
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "; how the last layer alone does was not measured." in text
    assert "The last layer alone (" not in text


def test_last_itself_chosen(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, chosen="last"))
    assert "no head over more layers did better on validation than this one, the last layer alone." in text
    assert "came out higher on test" in text


def test_a_simpler_head_whose_range_meets_the_chosen_ones_ties(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", test_low=0.85, test_score=0.86, test_high=0.87)
    for head in ("fc", "set", "weighted", "mean", "mlp", "best", "last"):
        set_head(results, head, test_low=0.70, test_high=0.80)
    assert ties(read_results(results)) == []
    assert "No head with fewer parameters reaches" in words(report(results, facts, tmp_path / "r.html").read_text())
    set_head(results, "mean", test_high=0.85)
    assert [row["head"] for row in ties(read_results(results))] == ["mean"]
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "This simpler head ties with it, their ranges over seeds overlap on test: mean (2,885 parameters," in text


def test_one_parameter_fewer_is_not_simpler(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path)
    for head in ("cayley", "fc"):
        set_head(results, head, test_low=0.85, test_high=0.87)
    assert "fc" not in {row["head"] for row in ties(read_results(results))}


def test_a_larger_head_is_no_tie(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path, chosen="mean")
    assert {row["head"] for row in ties(read_results(results))} == set()


def test_one_seed_leaves_ties_open(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, seeds=1))
    assert "(one seed)" in text
    assert "whether a simpler head does as well is not known" in text


def test_cayley_losing_is_said(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, chosen="mean"))
    assert re.search(r"cayley was not chosen: it is number 2 of 8 on validation and has 8\d\.\d % on test,", text)
    assert "cayley was not chosen" not in words(page_of(tmp_path / "wins"))


def test_the_interval_is_wilsons(tmp_path: Path) -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81/263 and 15/148, score method without correction.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    set_to = 383 / TEST_ROWS
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", test_score=set_to)
    low, high = wilson(set_to, TEST_ROWS)
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "445 rows, so one row is 0.22 points and the 95 % Wilson interval of" in text
    assert f"this figure is {100 * low:.1f}–{100 * high:.1f} %. The last layer alone (" in text
    near = pl.read_csv(results / "leaderboard.csv").filter(pl.col("test_score").is_between(low, high)).height - 1
    assert f" lies outside it. {near} of the other 7 heads lie inside, so this" in text


@given(right=st.integers(0, 500), more=st.integers(0, 500))
def test_the_interval_solves_the_score_equation(right: int, more: int) -> None:
    rows = right + more or 1
    share = right / rows
    for end in wilson(share, rows):
        assert 0 <= end <= 1
        # both ends are where the score test's statistic equals z
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / rows), abs=1e-6)


def test_label_figures_match_a_count_by_hand(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path, seeds=3)
    with (results / "confusion.csv").open() as file:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    for row in per_label(read_results(results)):
        name = row["label"]
        right = pairs.count((name, name))
        assert row["recall"] == pytest.approx(right / sum(a == name for a, _ in pairs))
        assert row["precision"] == pytest.approx(right / sum(p == name for _, p in pairs))
        assert row["rows"] == 89
        wrong = [p for a, p in pairs if a == name != p]
        assert row["taken_for"] == max(set(wrong), key=lambda other: (wrong.count(other), other))


def test_a_hostile_label_stays_text(tmp_path: Path) -> None:
    names = [HOSTILE, "<img src=x onerror=alert(2)>", "'\"]}&", "", "NA"]
    page = page_of(tmp_path, labels=names)
    assert HOSTILE not in page
    assert "<img src=x" not in page
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    assert sum("application/json" not in attributes for attributes, _ in scripts) == 3
    specs = [json.loads(body) for attributes, body in scripts if "application/json" in attributes]
    assert any(HOSTILE in json.dumps(spec) for spec in specs), "the label must reach the chart unharmed"


def test_labels_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path, labels=["01", "1", "NA", "true"])
    assert [row["label"] for row in per_label(read_results(results))] == ["01", "1", "NA", "true"]


def test_the_page_names_no_address_to_load(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in outside.replace("http-equiv", "")
    assert re.findall(r"(?:src|href)=\"(?!#)([^\"]*)", outside) == ["data:,"]
    assert "url(" not in outside
    assert len(page) < 2_000_000


def test_equal_inputs_give_equal_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    out = tmp_path / "pages" / "report.html"
    assert report(results, facts, out) == out
    first = out.read_bytes()
    report(results, facts, out)
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["leaderboard.csv", "runs.csv", "confusion.csv", "metrics.json"])
def test_a_missing_file_names_its_stage(tmp_path: Path, name: str) -> None:
    results, facts = write_results(tmp_path)
    (results / name).unlink()
    with pytest.raises(UserError, match=rf"{name}(?s:.*)no such file(?s:.*)run 'ilse evaluate' first"):
        report(results, facts, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("name", "heading", "reason"),
    [
        (
            "layers.csv",
            "Accuracy of each single layer",
            "layers.csv is missing or empty. It has rows when the head ‘best’",
        ),
        (
            "weights.csv",
            "Learned layer weights",
            "weights.csv is missing or empty. It has rows when a head that learns",
        ),
        ("curves", "Training", "the folder curves is missing or empty. The stage ‘ilse train’ writes it."),
        ("extract", "The run", "the figures of ‘ilse extract’ are missing. Run that stage"),
    ],
)
def test_a_file_that_may_be_missing_is_explained(tmp_path: Path, name: str, heading: str, reason: str) -> None:
    results, facts = write_results(tmp_path)
    assert reason not in words(report(results, facts, tmp_path / "r.html").read_text())
    for path in [facts["extract"]] if name == "extract" else [*results.glob(f"{name}/*"), results / name]:
        path.rmdir() if path.is_dir() else path.unlink()
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert heading in text
    assert reason in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("runs.csv", "", "columns head, seed"),
        ("runs.csv", "head,seed\nmean,0\n", "best_epoch"),
        ("confusion.csv", "actual,predicted\n", "only a header"),
        ("weights.csv", "head,layer,name,weight,low,high\nweighted,0,final,heavy,0,1\n", "heavy"),
        ("metrics.json", "{", "figures of 'ilse evaluate'"),
        ("metrics.json", '{"chosen": {}}', "chosen.head: Field required"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    results, facts = write_results(tmp_path)
    (results / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}(?s:.*){re.escape(message)}(?s:.*)run the stage that writes it again"):
        report(results, facts, tmp_path / "r.html")


def test_files_of_two_runs_are_refused(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", chosen="false")
    set_head(results, "mean", chosen="True")
    with pytest.raises(UserError, match=r"leaderboard\.csv chooses mean, metrics\.json cayley"):
        report(results, facts, tmp_path / "r.html")


def test_losses_that_json_cannot_hold_do_not_break_the_page(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    diverged = pl.lit("nan"), pl.lit("inf")
    edit(results / "curves" / "fc.csv", train_loss=diverged[0], val_loss=diverged[1])
    page = report(results, facts, tmp_path / "r.html").read_text()
    specs = re.findall(r"<script type=\"application/json\"[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    assert all("NaN" not in spec and "Infinity" not in spec for spec in specs)


def test_a_curve_of_a_head_no_longer_compared_changes_nothing(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    before = report(results, facts, tmp_path / "r.html").read_bytes()
    old = (results / "curves" / "fc.csv").read_text().replace("fc,", "dropped,").replace(",0.", ",2.")
    (results / "curves" / "dropped.csv").write_text(old)
    assert report(results, facts, tmp_path / "r.html").read_bytes() == before


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
