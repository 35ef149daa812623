"""Tables of what the study's experiments found, in `benchmarks/results/study/`.

`runs.csv` is the raw table, a row a model, task, head and seed. `extraction.csv` has what each cache cost.
`comparisons.csv` has differences on the test split with 95 % intervals over test examples and seeds: of every head
and control to each of `BASELINES` and to the head that validation chose, per model and task; and of each model's
chosen head to the other model's, where `model` is `across`, and `head` and `baseline` are `model/head`.
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
from ilse.core.files.atomic import replacing
from ilse.core.files.table_files import read_csv
from trainer.results.costs import extraction_seconds
from trainer.statistics import compare_accuracy, compare_figure

RESULTS = Path("benchmarks/results/study")
BASELINES = ("last", "weighted")
RESAMPLES = 500
ACROSS = "across"
"""In place of a model, of comparisons between models."""
Tables = dict[str, list[pl.DataFrame]]
Predictions = Mapping[str, pl.DataFrame]
"""Head → its answers to the test examples, a row a seed and example."""


def collect(experiments: list[Experiment], results: Path = RESULTS) -> list[str]:
    """Writes the tables of the experiments that have ended here, and returns their names.

    Rows of other experiments, run on another machine or before, stay as they are.
    """
    with Repo() as repo:
        commits = ended(repo)
    done = [one for one in experiments if one.name in commits]
    tables: Tables = {"runs": [], "extraction": [], "comparisons": []}
    chosen: dict[str, dict[str, pl.DataFrame]] = {}
    for one in done:
        best, predictions = _collect_one(one, DVCFileSystem(rev=commits[one.name]), tables)
        chosen.setdefault(one.task, {})[f"{one.model}/{best}"] = predictions
    for task, of_models in chosen.items():
        for baseline in list(of_models)[1:]:
            tables["comparisons"].append(placed(ACROSS, task, compared(of_models, baseline)))
    order = [(model, one.task) for one in experiments for model in (one.model, ACROSS)]
    for name, parts in tables.items():
        write_table(results / f"{name}.csv", parts, order)
    return [one.name for one in done]


def _collect_one(one: Experiment, files: DVCFileSystem, tables: Tables) -> tuple[str, pl.DataFrame]:
    """Adds an experiment's rows, and returns the head that validation chose and its answers."""
    best: str = pl.read_csv(io.BytesIO(files.read_bytes("results/leaderboard.csv"))).filter("chosen")["head"].item()
    runs = runs_of(files).with_columns((pl.col("head") == best).alias("chosen"))
    predictions = predictions_of(files, runs["head"].unique(maintain_order=True).to_list())
    tables["runs"].append(placed(one.model, one.task, runs))
    tables["extraction"].append(placed(one.model, one.task, extraction_of(files)))
    for baseline in dict.fromkeys([*BASELINES, best]):
        tables["comparisons"].append(placed(one.model, one.task, compared(predictions, baseline)))
    return best, predictions[best]


def placed(model: str, task: str, table: pl.DataFrame) -> pl.DataFrame:
    """With the columns `model` and `task` in front."""
    return table.select(pl.lit(model).alias("model"), pl.lit(task).alias("task"), pl.all())


def write_table(path: Path, parts: list[pl.DataFrame], order: list[tuple[str, str]]) -> None:
    """The new rows and what the file holds of other experiments, in `order`."""
    new = pl.concat(parts, how="diagonal") if parts else None
    old = read(path) if path.exists() else None
    if old is not None and new is not None:
        new = pl.concat([old.join(new, ["model", "task"], "anti", nulls_equal=True), new], how="diagonal_relaxed")
    table = old if new is None else new
    if table is None:
        raise SystemExit("no experiment of the study has ended")
    by_place = table.partition_by("model", "task", as_dict=True)
    with replacing(path) as file:
        pl.concat([by_place[place] for place in dict.fromkeys(order) if place in by_place]).write_csv(
            file, float_precision=6
        )


def read(path: Path) -> pl.DataFrame:
    """A table as it was written; a comparison across models has `ACROSS` as its model."""
    overrides = {"better": pl.Boolean, "mcnemar_p": pl.Float64, "learning_rate": pl.Float64, "best_epoch": pl.Int64}
    present = read_csv(path, n_rows=0).columns
    return read_csv(path, schema_overrides={name: kind for name, kind in overrides.items() if name in present})


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
        return compare_accuracy(right, [baseline])
    cosines = {name: by_seed(table, table["prediction"]) for name, table in predictions.items()}
    scores = of_seed(first, 0)["score"].to_numpy()
    return compare_figure(
        cosines, scores, lambda some, y: float(spearmanr(some, y).statistic), [baseline], resamples=RESAMPLES
    )


def of_seed(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Its rows."""
    return table.filter(pl.col("seed") == seed)


def by_seed(table: pl.DataFrame, values: pl.Series) -> np.ndarray[Any, np.dtype[Any]]:
    """[seeds, examples]."""
    return values.to_numpy().reshape(table["seed"].n_unique(), -1)
