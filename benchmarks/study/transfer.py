"""How far the heads of a task get on other data sets, where nothing is trained: `transfer.csv`.

The study's heads of `stsbenchmark` answer STS12-16, as the paper does it: on all pairs, and on those that STS-B's train
split does not hold (`prepare.exclude_train_of`). `raw` is the cosine of the last layer as it is. Differences to it,
with 95 % intervals over pairs and seeds, are those of the chosen head and of `COMPARED`, on the pairs not seen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from dvc.api import DVCFileSystem
from dvc.repo import Repo

from benchmarks.similarity import of_layer
from benchmarks.study.experiments import STUDY, Experiment, ended
from benchmarks.study.results import RESULTS, compared, placed, write_table
from ilse.core.files.table_files import read_parquet
from ilse.core.params import validate
from ilse.core.tables import EXAMPLES_FILE, TEXTS_FILE
from pipeline.config import ExtractParams
from pipeline.stages.extract import extract
from pipeline.stages.prepare import PrepareParams, prepare
from pipeline.store import open_cache
from trainer.data.task import open_task
from trainer.rows.in_memory import PairRows
from trainer.stages.evaluate import evaluate

RAW = "raw"
COMPARED = ("weighted", "cayley")


def collect(
    chosen: list[Experiment], everything: list[Experiment], data: Path, results: Path = RESULTS, study: Path = STUDY
) -> None:
    """Makes the rows of the `chosen` that have ended here; those of the study's others, `everything`, stay."""
    sets: dict[str, list[str]] = yaml.safe_load(study.read_text(encoding="utf-8"))["transfer"]
    with Repo() as repo:
        commits = ended(repo)
    tables = []
    for one in chosen:
        if one.name in commits and one.task in sets:
            with tempfile.TemporaryDirectory() as work:
                files = DVCFileSystem(rev=commits[one.name])
                tables.append(transferred(one, sets[one.task], files, data, Path(work)))
    if tables:
        write_table(results / "transfer.csv", tables, [(one.model, one.task) for one in everything])


def transferred(one: Experiment, sets: list[str], files: DVCFileSystem, data: Path, work: Path) -> pl.DataFrame:
    """A row for each set and head: pairs, Spearman's correlation on all and on unseen ones, and what it gains."""
    params = yaml.safe_load(files.read_text("params.yaml"))
    files.get("models", str(work / "models"), recursive=True)
    trained_on = work / "trained_on"
    trained_on.mkdir()
    for name in (TEXTS_FILE, EXAMPLES_FILE):
        files.get_file(f"data/{name}", str(trained_on / name))
    tables = [_on(name, params, data / name / "test.parquet", trained_on, work) for name in sets]
    return placed(one.model, one.task, pl.concat(tables))


def _on(name: str, params: dict[str, Any], test: Path, trained_on: Path, work: Path) -> pl.DataFrame:
    prepared = {**params["prepare"], "path": {"test": str(test)}}
    out = {kind: work / name / kind for kind in ("all", "unseen")}
    prepare(validate("prepare", PrepareParams, prepared), out["all"])
    prepare(validate("prepare", PrepareParams, {**prepared, "exclude_train_of": str(trained_on)}), out["unseen"])
    cache = work / name / "cache.zarr"
    extract(validate("extract", ExtractParams, params["extract"]), out["all"] / TEXTS_FILE, cache, work / "scratch")
    scores = {kind: _scores(folder, cache, params["train"]["heads"], work / "models") for kind, folder in out.items()}
    joined = scores["all"].join(scores["unseen"], on="head", suffix="_unseen", maintain_order="left")
    gains = _gains(out["unseen"], cache, joined.filter("chosen")["head"].item())
    table = joined.select("head", "pairs", "pairs_unseen", "score", "score_unseen", "chosen")
    return table.join(gains, on="head", how="left", maintain_order="left").insert_column(0, pl.lit(name).alias("data"))


def _scores(folder: Path, cache: Path, heads: list[str], models: Path) -> pl.DataFrame:
    """Each head's mean over seeds, and `raw`."""
    table = evaluate(heads, cache, folder / EXAMPLES_FILE, models, folder / "results")
    rows = _raw(folder, cache)
    raw = pl.DataFrame({"head": [RAW], "score": [rows["figure"][0]], "chosen": [False]})
    heads_too = table.select("head", pl.col("test_score").alias("score"), "chosen")
    return pl.concat([heads_too, raw]).with_columns(pairs=pl.lit(len(rows)))


def _raw(folder: Path, cache: Path) -> pl.DataFrame:
    """Its answers, as `results/predictions/` has those of heads, and in each row the figure."""
    task = open_task(open_cache(cache), folder / EXAMPLES_FILE)
    rows = task.held_out([len(task.cache.layers) - 1])
    assert isinstance(rows, PairRows)
    cosines, figures = of_layer(rows, 0)
    answers = {"prediction": cosines.double().numpy(), "score": rows.y.double().numpy()}
    return task.unlabelled_ids().with_columns(
        pl.lit(0).alias("seed"),
        pl.lit(figures["spearman"]).alias("figure"),
        **{k: pl.Series(v) for k, v in answers.items()},
    )


def _gains(folder: Path, cache: Path, chosen: str) -> pl.DataFrame:
    heads = dict.fromkeys((chosen, *COMPARED))
    answers = {name: read_parquet(folder / "results" / "predictions" / f"{name}.parquet") for name in heads}
    gains = compared({RAW: _raw(folder, cache), **answers}, RAW)
    return gains.select("head", "difference_points", "low_points", "high_points", "better")
