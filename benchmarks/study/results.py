"""Tables of what the study's experiments found, in `benchmarks/results/study/`.

`runs.csv` is the raw table, a row a model, task, head and seed. `extraction.csv` has what each cache cost.
`comparisons.csv` has differences on the test split with 95 % intervals over test examples and seeds: of every head
and control to each of `BASELINES` and to the head that validation chose, per model and task; and of each model's
chosen head to the other model's, where `head` and `baseline` are `model/head`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from dvc.api import DVCFileSystem
from dvc.repo import Repo
from scipy.stats import spearmanr

from benchmarks.study.experiments import Experiment, ended
from ilse.files import replacing
from trainer.costs import extraction_seconds
from trainer.statistics import compare_accuracy, compare_figure

RESULTS = Path("benchmarks/results/study")
BASELINES = ("last", "weighted")
RESAMPLES = 500
Predictions = Mapping[str, pl.DataFrame]
"""Head → its answers to the test examples, a row a seed and example."""


def collect(experiments: list[Experiment]) -> list[str]:
    """Writes the tables of the experiments that have ended, and returns their names."""
    with Repo() as repo:
        commits = ended(repo)
    done = [one for one in experiments if one.name in commits]
    tables: dict[str, list[pl.DataFrame]] = {"runs": [], "extraction": [], "comparisons": []}
    chosen: dict[str, dict[str, pl.DataFrame]] = {}
    for one in done:
        files = DVCFileSystem(rev=commits[one.name])
        best = pl.read_csv(io.BytesIO(files.read_bytes("results/leaderboard.csv"))).filter("chosen")["head"].item()
        runs = runs_of(files).with_columns((pl.col("head") == best).alias("chosen"))
        predictions = predictions_of(files, runs["head"].unique(maintain_order=True).to_list())
        place = [pl.lit(one.model).alias("model"), pl.lit(one.task).alias("task")]
        tables["runs"].append(runs.select(*place, pl.all()))
        tables["extraction"].append(extraction_of(files).select(*place, pl.all()))
        for baseline in dict.fromkeys([*BASELINES, best]):
            tables["comparisons"].append(compared(predictions, baseline).select(*place, pl.all()))
        chosen.setdefault(one.task, {})[f"{one.model}/{best}"] = predictions[best]
    for task, of_models in chosen.items():
        for baseline in list(of_models)[1:]:
            across = [pl.lit("").alias("model"), pl.lit(task).alias("task")]
            tables["comparisons"].append(compared(of_models, baseline).select(*across, pl.all()))
    for name, parts in tables.items():
        with replacing(RESULTS / f"{name}.csv") as file:
            pl.concat(parts, how="diagonal").write_csv(file, float_precision=6)
    return [one.name for one in done]


def runs_of(files: DVCFileSystem) -> pl.DataFrame:
    """`results/runs.csv`, with the learning rate that validation chose (null for controls)."""
    runs = pl.read_csv(io.BytesIO(files.read_bytes("results/runs.csv")))
    figures = {name: json.loads(files.read_text(f"results/train/{name}.json")) for name in runs["head"].unique()}
    rates = {name: figure.get("learning_rate") for name, figure in figures.items()}
    rate = pl.col("head").replace_strict(rates, return_dtype=pl.Float64).alias("learning_rate")
    metric = pl.lit(next(iter(figures.values()))["metric"]).alias("metric")
    columns = ("head", "seed", rate, metric, "best_epoch", "val_score", "test_score", "parameters", "train_seconds")
    return runs.select(*columns)


def extraction_of(files: DVCFileSystem) -> pl.DataFrame:
    """What the cache cost."""
    figures: dict[str, Any] = json.loads(files.read_text("data/extract.json"))
    row = {key: figures[key] for key in ("texts", "tokens", "tokens_per_second")}
    return pl.DataFrame(row | {"seconds": extraction_seconds(figures)}, schema_overrides={"seconds": pl.Float64})


def predictions_of(files: DVCFileSystem, heads: list[str]) -> dict[str, pl.DataFrame]:
    """The answers of every head and control."""
    columns = ("seed", "text_id", "pair_text_id", "label", "prediction", "score")
    tables = {
        name: pl.read_parquet(io.BytesIO(files.read_bytes(f"results/predictions/{name}.parquet"))) for name in heads
    }
    return {
        name: table.select(column for column in columns if column in table.columns) for name, table in tables.items()
    }


def compared(predictions: Predictions, baseline: str) -> pl.DataFrame:
    """Each against `baseline`, with the statistics of `ilse evaluate`."""
    first = next(iter(predictions.values()))
    for name, table in predictions.items():
        if not of_seed(table, 0)["text_id"].equals(of_seed(first, 0)["text_id"]):
            raise SystemExit(f"{name} answered other test examples")
    if "label" in first.columns:
        right = {name: by_seed(table, table["label"] == table["prediction"]) for name, table in predictions.items()}
        return compare_accuracy(right, baseline)
    cosines = {name: by_seed(table, table["prediction"]) for name, table in predictions.items()}
    scores = of_seed(first, 0)["score"].to_numpy()
    return compare_figure(
        cosines, scores, lambda some, y: float(spearmanr(some, y).statistic), baseline, resamples=RESAMPLES
    )


def of_seed(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Its rows."""
    return table.filter(pl.col("seed") == seed)


def by_seed(table: pl.DataFrame, values: pl.Series) -> np.ndarray[Any, np.dtype[Any]]:
    """[seeds, examples]."""
    return values.to_numpy().reshape(table["seed"].n_unique(), -1)
