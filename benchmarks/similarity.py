"""Similarity of sentences: heads on STS-B against raw layers and the published recipe.

    python -m benchmarks.similarity DATA WORK [--contenders NAME ...] [--seeds N] [--quick]

DATA has a folder `stsbenchmark` with `train.parquet`, `validation.parquet` and `test.parquet`, columns `text_a`,
`text_b` and `score`. WORK keeps the model, the cache and every finished run; it may be that of `benchmarks.accuracy`.
SmolLM2-135M, mean pooling, at most 128 tokens, float16, by the stages that a user runs.

`raw last` and `raw best` are cosines of the cache's own rows, the best layer chosen on validation; nothing is trained.
`published` is `cayley` with doubled edges and the paper's recipe: its own vector, squared error on the scores' scale,
rows as they are. The chosen head has the best mean Spearman correlation on validation. The last line is JSON, and
`benchmarks/results/similarity.json` the same: for each contender Spearman's correlation x 100 on validation and test
(and Pearson's on test), and what the chosen one gains over each of the three baselines, with a 95 % interval
over pairs of sentences (resampled) and seeds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.accuracy import interval, points, smollm2
from benchmarks.contenders import Contender
from benchmarks.demo import demo_params
from ilse.core.files.atomic import write_json
from ilse.core.files.table_files import read_parquet
from ilse.core.params import validate
from ilse.core.tables import EXAMPLES_FILE, TEXTS_FILE, VALIDATION
from pipeline.config import ExtractParams, ModelParams
from pipeline.stages.extract import extract
from pipeline.stages.prepare import PrepareParams, prepare
from pipeline.store import open_cache
from trainer.data.task import Task, open_task
from trainer.objectives.similarity import Similarity
from trainer.rows.in_memory import PairRows
from trainer.statistics import difference, of_figure

TASK = "stsbenchmark"
RESULTS = Path("benchmarks/results/similarity.json")
RESAMPLES = 2_000


REFERENCE = "published"
CONTENDERS: dict[str, Contender] = {
    # Of the published grid's rates the one that does better on validation: 0.48 against 0.36 with 1e-3, one seed. With
    # both validation is best in the first two epochs and falls: of two runs of all 50 with 1e-3 neither came back.
    REFERENCE: Contender(
        "cayley", {"doubled_edges": True}, {"preset": "paper", "learning_rate": 1e-4, "patience": 10}, embedding=None
    ),
    "last": Contender("last"),
    "best": Contender("best"),
    "mean": Contender("mean"),
    "weighted": Contender("weighted"),
    "mlp": Contender("mlp", {"fusion": "weighted"}),
    "bottleneck": Contender("bottleneck"),
    "set": Contender("set"),
    "cayley": Contender("cayley"),
}


@dataclass(frozen=True)
class Ran:
    """A contender: its figures by seed (x 1), and each test pair's cosine by seed, [seeds, pairs]."""

    validation: list[float]
    test: list[float]
    pearson: list[float]
    cosines: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    parameters: int

    def shown(self) -> dict[str, Any]:
        """For the results."""
        means = {name: float(np.mean(getattr(self, name))) for name in ("validation", "test", "pearson")}
        return {
            **{name: round(100 * value, 2) for name, value in means.items()},
            "test_by_seed": [round(100 * value, 2) for value in self.test],
            "parameters": self.parameters,
        }


def main() -> None:
    """Runs what is missing and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two heads and one seed")
    given = parser.parse_args()
    if given.quick:
        given.contenders, given.seeds = ["weighted", "mlp"], 1
    examples, cache = made(given.data / TASK, given.work)
    runs = raw(open_task(open_cache(cache), examples))
    for name in given.contenders:
        folder = given.work / "runs" / TASK / f"{name}, {given.seeds} seeds"
        runs[name] = ran(CONTENDERS[name], given.seeds, examples, cache, folder)
        print(f"{name:12} {runs[name].shown()}", flush=True)
    scores = read_parquet(examples).filter(split="test")["score"].to_numpy()
    found = summary(runs, scores)
    if not given.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        write_json(RESULTS, found)
    print(json.dumps(found))


def made(data: Path, work: Path) -> tuple[Path, Path]:
    """The examples and the cache."""
    here = work / TASK
    if not (here / EXAMPLES_FILE).exists():
        columns = {"text_column": "text_a", "text_pair_column": "text_b", "score_column": "score"}
        prepare(validate("prepare", PrepareParams, {"path": str(data), **columns}), here)
    params: ExtractParams = demo_params().model_copy(update={"model": ModelParams(path=smollm2(work))})
    extract(params, here / TEXTS_FILE, here / "cache.zarr", here / "scratch")
    return here / EXAMPLES_FILE, here / "cache.zarr"


def raw(task: Task) -> dict[str, Ran]:
    """Cosines of single layers as they are."""
    validation, test = task.training_split(VALIDATION), task.held_out()
    assert isinstance(validation, PairRows)
    assert isinstance(test, PairRows)
    layers = {layer: of_layer(validation, layer) for layer in range(len(task.cache.layers))}
    best = max(layers, key=lambda layer: layers[layer][1]["spearman"])
    found = {}
    for name, layer in (("raw last", len(layers) - 1), ("raw best", best)):
        cosine, figures = of_layer(test, layer)
        found[name] = Ran(
            [layers[layer][1]["spearman"]],
            [figures["spearman"]],
            [figures["pearson"]],
            cosine.double().numpy()[None],
            0,
        )
        print(f"{name:12} layer {layer} {found[name].shown()}", flush=True)
    return found


def of_layer(rows: PairRows, layer: int) -> tuple[Tensor, dict[str, float]]:
    """The pairs' cosines of one layer, and their figures."""
    objective = Similarity(rows.x.shape[2])
    cosine = torch.cat([objective.predict(x[:, layer]) for x, _ in rows.chunks(256)])
    return cosine, objective.figures(cosine, rows.y)


def ran(contender: Contender, seeds: int, examples: Path, cache: Path, folder: Path) -> Ran:
    """Trains and evaluates by the stages themselves, or reads what they wrote before."""
    runs, predictions = contender.run(seeds, cache, examples, folder)
    return Ran(
        runs["val_score"].to_list(),
        runs["test_score"].to_list(),
        runs["test_pearson"].to_list(),
        np.stack([of_seed["prediction"].to_numpy() for of_seed in predictions]),
        runs["parameters"][0],
    )


def summary(runs: dict[str, Ran], scores: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """All figures, and the chosen head's gains."""
    trained = {name: run for name, run in runs.items() if name not in ("raw last", "raw best", REFERENCE)}
    chosen = max(trained, key=lambda name: float(np.mean(trained[name].validation)))
    against = [name for name in ("raw last", "raw best", REFERENCE) if name in runs]
    return {
        "chosen": chosen,
        "gains": {name: gain(runs[chosen], runs[name], scores) for name in against},
        "contenders": {name: run.shown() for name, run in runs.items()},
    }


def gain(one: Ran, other: Ran, scores: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Points of mean Spearman correlation on test, with an interval."""
    found = difference(*(of_figure(run.cosines, scores, _spearman, resamples=RESAMPLES) for run in (one, other)))
    return {"points": points(found.difference), "interval": interval(found)}


def _spearman(cosines: np.ndarray[Any, np.dtype[Any]], scores: np.ndarray[Any, np.dtype[Any]]) -> float:
    return float(np.corrcoef(_ranks(cosines), _ranks(scores))[0, 1])


def _ranks(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Equal values share their mean rank."""
    return pl.Series(values).rank("average").to_numpy()


if __name__ == "__main__":
    main()
