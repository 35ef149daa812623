"""A made-up evaluation: the tables that training, evaluation and analysis leave, small and the same each time."""

from __future__ import annotations

import csv
import html
import json
import math
import random
import re
from pathlib import Path
from statistics import fmean, median
from typing import Any

import polars as pl

from ilse.core.tables import SPLITS
from trainer.report import report

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
            middle = median(values) if split == "val" else fmean(values)
            row |= {f"{split}_score": middle, f"{split}_low": min(values), f"{split}_high": max(values)}
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


WHY_EXAMPLE: dict[str, Any] = {
    "text_id": "0" * 32, "right": True, "target": "sport", "answer": "sport, 0.93", "words": ["late", HOSTILE],
    "places": [1, 4], "count": 6, "contributions": [[0.5, -0.25], [0.125, 1.0]],
}  # fmt: skip


def why_told(results: Path, **changes: Any) -> dict[str, Any]:
    """What `ilse why` leaves for a head of these results."""
    runs = pl.read_csv(results / "runs.csv").filter(head="cayley", seed=0)
    wrong = WHY_EXAMPLE | {"right": False, "answer": "tech, 0.51"}
    return {
        "format_version": 1, "head": "cayley", "seed": 0, "val_score": runs["val_score"].item(), "trained_on": False,
        "asked": 200, "answered_rightly": 171, "layers": ["embedding", "final"], "examples": [WHY_EXAMPLE, wrong],
    } | changes  # fmt: skip


CONTROLS: dict[str, tuple[str, float, int]] = {
    "words": ("bag of words, logistic regression", 0.801, 14_420),
    "majority": ("the most frequent label", 0.229, 0),
}


def write_everything(folder: Path, **options: Any) -> tuple[Path, dict[str, Path], Path]:
    """As `write_results`, with controls and every table that a run may lack, and `texts.parquet`; returns all three."""
    results, facts = write_results(folder, **options)
    labels = options.get("labels", LABELS)
    draw = random.Random(1)
    names = pl.read_csv(results / "layers.csv")["name"].to_list()
    _add_controls(results)
    _write(results / "comparison.csv", _comparison(results))
    _write_analysis(draw, results / "analysis", names, labels)
    _write(results / "calibration.csv", [_bin(i) for i in range(10)])
    texts = [{"text_id": f"{i:032x}", "text": f"A headline of some words, number {i}"} for i in range(TEST_ROWS)]
    texts[0]["text"] = f"{HOSTILE} " + "word " * 100
    pl.DataFrame(texts).write_parquet(folder / "texts.parquet")
    write_predictions(results, labels)
    return results, facts, folder / "texts.parquet"


def _add_controls(results: Path) -> None:
    board = pl.read_csv(results / "leaderboard.csv", infer_schema=False).with_columns(control=pl.lit("false"))
    rows = board.to_dicts()
    for rank, (name, (summary, score, parameters)) in enumerate(CONTROLS.items(), start=len(rows) + 1):
        shares = {f"{split}_{part}": score for split in ("val", "test") for part in ("score", "low", "high")}
        rows.append(rows[0] | shares | {
            "rank": rank, "head": name, "summary": summary, "gain_points": 100 * score - 78.0, "seeds": 1,
            "parameters": parameters, "share_percent": "", "train_seconds": 0.2, "chosen": False, "control": True,
        })  # fmt: skip
    _write(results / "leaderboard.csv", rows)


def _comparison(results: Path) -> list[dict[str, Any]]:
    rows = []
    for row in pl.read_csv(results / "leaderboard.csv").filter(pl.col("head") != "last").to_dicts():
        d = row["gain_points"]
        rows.append({
            "head": row["head"], "baseline": "last", "seeds": row["seeds"], "rows": TEST_ROWS, "difference_points": d,
            "low_points": d - 2.9, "high_points": d + 2.8, "p": 0.0002, "p_holm": 0.0014, "mcnemar_p": "",
            "better": "" if d - 2.9 < 0 < d + 2.8 else d > 0,
        })  # fmt: skip
    return rows


def _write_analysis(draw: random.Random, folder: Path, names: list[str], labels: list[str]) -> None:
    folder.mkdir()
    layers = [{"layer": i, "name": name} for i, name in enumerate(names)]
    of_head = [{"head": "cayley", **layer} for layer in layers]
    drops = [draw.uniform(-0.2, 1.4) for _ in names]
    spans = [(row, drop) for row, drop in zip(of_head, drops, strict=True)]
    _write(folder / "leave_one_out.csv", [r | {"drop_points": d, "low": d - 0.3, "high": d + 0.4} for r, d in spans])
    share = 1 / len(names)
    near = {"low": 0.8 * share, "high": 1.3 * share}
    _write(folder / "attribution.csv", [row | {"share": share} | near for row in of_head])
    _write(folder / "inputs.csv", [row | {"mean": share} | near for row in of_head])
    pairs = [(a, b) for a in layers for b in layers if a["layer"] <= b["layer"]]
    _write(folder / "cka.csv", [_likeness(a, b, len(names)) for a, b in pairs])
    recalls = [(label, row) for label in labels for row in layers]
    _write(
        folder / "classes.csv", [{"label": n, **r, "recall": draw.uniform(0.5, 0.9), "rows": 89} for n, r in recalls]
    )


def _likeness(a: dict[str, Any], b: dict[str, Any], layers: int) -> dict[str, Any]:
    apart = (b["layer"] - a["layer"]) / layers
    ends = {"layer_a": a["layer"], "layer_b": b["layer"], "name_a": a["name"], "name_b": b["name"]}
    return ends | {"cka": math.exp(-1.6 * apart)}


def _bin(number: int) -> dict[str, Any]:
    low, confidence = number / 10, number / 10 + 0.055
    rows = 4 + 2 * number * number
    return {"head": "cayley", "low": low, "high": low + 0.1, "rows": rows, "confidence": confidence,
            "accuracy": max(0.0, confidence - 0.04)}  # fmt: skip


def write_predictions(results: Path, labels: list[str], seeds: int = 3) -> None:
    """Answers of `cayley`, wrong on every seventh example, and of `last`, wrong on every fourth."""
    (results / "predictions").mkdir(exist_ok=True)
    for head, every in (("cayley", 7), ("last", 4)):
        rows = []
        for seed in range(seeds):
            for i in range(TEST_ROWS):
                label, other = labels[i % len(labels)], labels[(i + 1) % len(labels)]
                rows.append((seed, f"{i:032x}", label, other if i % every == 0 else label, 0.5 + i / 1000))
        columns = ["seed", "text_id", "label", "prediction", "probability"]
        pl.DataFrame(rows, schema=columns, orient="row").write_parquet(results / "predictions" / f"{head}.parquet")


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
