"""Results that no evaluation writes, listed anew as if one had: tables, figures and answers before report and card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.hostile.judge import Case
from benchmarks.hostile.opening import ilse
from benchmarks.hostile.project import HEAD
from benchmarks.hostile.spoiling import DEEP, PICKLE, TOO_LONG_NUMBER, Craft, cut, written
from ilse.core.files.table_files import read_csv, read_parquet
from trainer.results.manifest import seal

REPORT = ilse("report", "--out", "other.html", "--texts", "data/texts.parquet")
COMPARE = ilse("compare", "a=results", "b=results", "--out", "other.html")
PUSH = ilse("push", HEAD, "owner/name", "--dry-run")
BOARD, RUNS, METRICS = "results/leaderboard.csv", "results/runs.csv", "results/metrics.json"
CURVES, PREDICTED = "results/curves/weighted.csv", "results/predictions/majority.parquet"
WHY = "results/why.json"


def cases() -> Iterator[Case]:
    """All of them."""
    crafted = {f"{Path(place).name}: {name}": craft for place, crafts in CRAFTED.items() for name, craft in crafts}
    for name, craft in crafted.items():
        yield Case("results", name, listed(craft), REPORT)
    unread = ("extract.json", "why.json")  # a comparison says nothing of the run, and draws no words
    compared = {name: crafted[name] for name in list(crafted)[::6] if not name.startswith(unread)}
    for name, craft in (compared | ANSWERED).items():
        yield Case("results compared", name, listed(craft), COMPARE)
    for name, craft in TOLD.items():
        yield Case("results for a card", name, craft, PUSH)


def listed(craft: Craft) -> Craft:
    """The results after `craft`, with a list of checksums that says that they are one evaluation's."""

    def both() -> None:
        craft()
        seal(Path("results"))

    return both


def cells(place: str, **values: str) -> Craft:
    """The CSV with other values in the first row."""

    def craft() -> None:
        table, first = read_csv(place, infer_schema=False), pl.int_range(pl.len()) == 0
        new = [pl.when(first).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in values.items()]
        table.with_columns(new).write_csv(place)

    return craft


def changed(place: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Craft:
    """The table, CSV or Parquet, after `change`."""

    def craft() -> None:
        if place.endswith(".csv"):
            change(read_csv(place, infer_schema=False)).write_csv(place)
        else:
            change(read_parquet(place)).write_parquet(place)

    return craft


def figure(place: str, name: str, value: Any) -> Craft:
    """The JSON file with another value."""

    def craft() -> None:
        values = json.loads(Path(place).read_text())
        Path(place).write_text(json.dumps(values | {name: value}))

    return craft


def again(place: str) -> Craft:
    """The table with its first row twice."""
    return changed(place, lambda table: pl.concat([table.head(1), table]))


def without(place: str, column: str) -> Craft:
    """The table without a column."""
    return changed(place, lambda table: table.drop(column))


CRAFTED: dict[str, list[tuple[str, Craft]]] = {
    BOARD: [
        ("nothing in it", written(BOARD, b"")),
        ("a pickle", written(BOARD, PICKLE)),
        ("another encoding", written(BOARD, "rank,head".encode("utf-16"))),
        ("half of it", cut(BOARD, 60)),
        ("only a header", changed(BOARD, lambda table: table.head(0))),
        ("a score in words", cells(BOARD, test_score="many")),
        ("a score of 500 %", cells(BOARD, test_score="5", test_high="5")),
        ("a range upside down", cells(BOARD, val_low="0.9", val_high="0.1")),
        ("no score", cells(BOARD, val_score="")),
        ("a score that is no number", cells(BOARD, val_score="nan")),
        ("no seeds", cells(BOARD, seeds="0")),
        ("half a rank", cells(BOARD, rank="1.5")),
        ("parameters beyond counting", cells(BOARD, parameters="1e300")),
        ("time that runs back", cells(BOARD, train_seconds="-1")),
        ("a flag in words", cells(BOARD, chosen="perhaps")),
        ("nothing chosen", cells(BOARD, chosen="false")),
        ("a head twice", again(BOARD)),
        ("a column less", without(BOARD, "gain_points")),
        ("a column twice", lambda: Path(BOARD).write_text(f"seeds,{Path(BOARD).read_text()}")),
    ],
    RUNS: [
        ("a row too few", changed(RUNS, lambda table: table.slice(1))),
        ("a seed twice", again(RUNS)),
        ("a score in words", cells(RUNS, test_score="many")),
        ("a score below 0", cells(RUNS, test_score="-0.5")),
        ("seeds of 400 digits", cells(RUNS, seed="9" * 400)),
        ("a column of another name", changed(RUNS, lambda table: table.rename({"seed": "Seed"}))),
    ],
    METRICS: [
        ("JSON too deep", written(METRICS, DEEP)),
        ("a number of 5,000 digits", written(METRICS, b'{"test_rows": ' + TOO_LONG_NUMBER + b"}")),
        ("no rows", figure(METRICS, "test_rows", 0)),
        ("rows in words", figure(METRICS, "test_rows", "12")),
        ("another metric", figure(METRICS, "metric", "magic")),
        ("labels that are numbers", figure(METRICS, "labels", [1, 2])),
        ("nobody chosen", figure(METRICS, "chosen", None)),
    ],
    "results/confusion.csv": [
        ("a row too few", changed("results/confusion.csv", lambda table: table.slice(1))),
        ("a column less", without("results/confusion.csv", "actual")),
    ],
    "results/weights.csv": [
        ("a layer twice", again("results/weights.csv")),
        ("a layer of -1", cells("results/weights.csv", layer="-1")),
    ],
    "results/calibration.csv": [("a share of 7", cells("results/calibration.csv", accuracy="7"))],
    "results/comparison.csv": [
        ("a p of 2", cells("results/comparison.csv", p_holm="2")),
        ("an interval beside its difference", cells("results/comparison.csv", low_points="99", high_points="100")),
    ],
    CURVES: [
        ("an epoch twice", again(CURVES)),
        ("losses in words", cells(CURVES, val_loss="low")),
        ("half an epoch", cells(CURVES, epoch="0.5")),
    ],
    WHY: [
        ("no JSON", written(WHY, PICKLE)),
        ("JSON too deep", written(WHY, DEEP)),
        ("a number of 5,000 digits", written(WHY, b'{"asked": ' + TOO_LONG_NUMBER + b"}")),
        ("no examples", written(WHY, b'{"format_version": 1, "examples": []}')),
    ],
    "data/extract.json": [
        ("JSON cut short", cut("data/extract.json", 20)),
        ("seconds in words", figure("data/extract.json", "seconds", "12")),
        ("layers beyond sense", figure("data/extract.json", "layers", 10**9)),
        ("figures that are missing", figure("data/extract.json", "tokens", None)),
    ],
}
"""File → what is wrong with it, and what makes it so."""
TOLD: dict[str, Craft] = {
    "a score in words": cells(RUNS, test_score="many"),
    "a score of 500 %": cells(RUNS, test_score="5"),
    "a column less": without(RUNS, "test_score"),
    "a pickle": written(RUNS, PICKLE),
}
ANSWERED: dict[str, Craft] = {
    "half of it": cut(PREDICTED, 60),
    "no labels": without(PREDICTED, "label"),
    "no seeds": without(PREDICTED, "seed"),
    "ids that are numbers": changed(PREDICTED, lambda table: table.with_columns(text_id=pl.lit(1))),
    "answers that are missing": changed(PREDICTED, lambda table: table.with_columns(prediction=pl.lit(None))),
    "no row": changed(PREDICTED, lambda table: table.head(0)),
}
"""The answers that a comparison reads."""
