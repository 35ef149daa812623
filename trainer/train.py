"""The train stage: one head, several seeds, from the cache and the tables alone."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import torch

from ilse.files import replacing, replacing_folder, write_json
from pipeline.store import open_cache
from trainer.artifact import HeadFacts, TrainedHead, save_head
from trainer.assembly import head_of, objective_of
from trainer.config import Recipe, TrainParams
from trainer.fit import Fit, fit
from trainer.heads import Head, head_config, head_kind
from trainer.inputs import Inputs
from trainer.objectives import Objective
from trainer.progress import Progress, fit_key
from trainer.rows import Examples
from trainer.stream import StreamedRows
from trainer.task import Task, open_task
from trainer.treatment import Treatment

UNFINISHED = ".unfinished"
"""Folder beside the heads' own for fits that were cut short; it goes when the head is done."""


def train(
    params: TrainParams, name: str, cache: str | Path, examples: Path, models: Path, results: Path
) -> dict[str, Any]:
    """Trains head `name` with seeds 0, 1, … and returns its validation figures.

    With `train.learning_rates` seed 0 tries them all, and the best one on validation is that of every seed. Writes
    `models/<name>/seed-<n>/`, `results/train/<name>.json` and `results/curves/<name>.csv`. A run that is cut short goes
    on, with the same parameters, where it was at most some seconds before. Raises `UserError` for a head that there is
    not, and for what `open_cache`, `open_task`, `objective_of` and `fit` refuse; the old ones then stay.
    """
    head_kind(name)  # refuses a wrong name before anything is read
    unfinished = models / UNFINISHED / name
    runs = _Runs(params, name, open_task(open_cache(cache), examples), unfinished)
    recipes, fits = params.recipes_of(name), []
    with replacing_folder(models / name) as folder:
        for seed in range(params.seeds):
            tried = [runs.run(recipe, seed) for recipe in recipes]
            best = max(tried, key=lambda run: (run.result.best.val_score, -run.result.best.val_loss))
            recipes = [best.recipe]
            save_head(folder / f"seed-{seed}", runs.trained(best, seed))
            fits.append(best.result)
    figures = _write_figures(name, runs.objective.metric, best.recipe, fits, results)
    shutil.rmtree(unfinished, ignore_errors=True)
    with contextlib.suppress(OSError):  # another head's fit may be in it
        unfinished.parent.rmdir()
    return figures


@dataclass(frozen=True)
class _Run:
    """One fit, and what it was made with."""

    recipe: Recipe
    treatment: Treatment
    result: Fit


class _Runs:
    """The fits of one head on one task; they differ by recipe and seed."""

    def __init__(self, params: TrainParams, name: str, task: Task, unfinished: Path) -> None:
        self._params, self._name, self._task, self._unfinished = params, name, task, unfinished
        self.objective = objective_of(params, name, task)
        self._reads = self._head().layers_read
        self._inputs = Inputs(task, params, params.recipe_of(name).treatment(), self._reads)

    def run(self, recipe: Recipe, seed: int) -> _Run:
        treatment, train_rows, validation_rows = self._inputs.of_seed(seed)
        torch.manual_seed(seed)
        head = self._head()
        file = self._unfinished / f"seed-{seed}-at-{recipe.learning_rate:g}.safetensors"
        progress = Progress(file, _progress_key(self._task, self._params, recipe, head, seed, train_rows))
        result = fit(head, train_rows, validation_rows, self.objective, recipe, seed, self._params.device, progress)
        rate = "" if self._params.learning_rates is None else f" at {recipe.learning_rate:g}"
        line = _line(self.objective.metric, result)
        print(f"{self._name} seed {seed}{rate}: {line}", file=sys.stderr, flush=True)
        return _Run(recipe, treatment, result)

    def trained(self, run: _Run, seed: int) -> TrainedHead:
        """What is kept. `best` trains on all layers and keeps one, with the treatment of its rows."""
        treatment = run.treatment.of_layers([self._reads.index(layer) for layer in run.result.head.layers_read])
        facts = _facts(self._task, self._params, run.recipe.model_dump(), seed, self.objective, run.result)
        return TrainedHead(treatment, run.result.head, facts)

    def _head(self) -> Head:
        return head_of(self._params, self._name, self._task, self.objective)


def _progress_key(task: Task, params: TrainParams, recipe: Recipe, head: Head, seed: int, rows: Examples) -> str:
    own = {
        "head": head_config(head),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "block_shards": rows.block_shards if isinstance(rows, StreamedRows) else None,
    }
    return fit_key(task, params, own)


def _facts(
    task: Task, params: TrainParams, recipe: dict[str, Any], seed: int, objective: Objective, result: Fit
) -> HeadFacts:
    header = task.cache.header
    return HeadFacts(
        objective=objective.facts(),
        labels=list(task.labels),
        capture=header.capture,
        pooling=params.pooling,
        model_name=header.model_name,
        model_parameters=header.model_parameters,
        recipe=recipe,
        seed=seed,
        best_epoch=result.best.epoch,
        val_score=result.best.val_score,
        val_loss=result.best.val_loss,
        train_seconds=result.seconds,
        layer_scores=result.layer_scores,
    )


def _write_figures(name: str, metric: str, recipe: Recipe, fits: list[Fit], results: Path) -> dict[str, Any]:
    curves = [
        {"head": name, "seed": seed, **asdict(epoch)} for seed, result in enumerate(fits) for epoch in result.curve
    ]
    with replacing(results / "curves" / f"{name}.csv") as file:
        pl.DataFrame(curves).write_csv(file)
    figures = {
        "metric": metric,
        "val_score": median(result.best.val_score for result in fits),
        "val_loss": median(result.best.val_loss for result in fits),
        "learning_rate": recipe.learning_rate,
        "train_seconds": round(median(result.seconds for result in fits), 2),
        "seeds": len(fits),
    }
    write_json(results / "train" / f"{name}.json", figures)
    return figures


def _line(metric: str, result: Fit) -> str:
    best = result.best
    before = f", gone on with after epoch {result.epochs_before - 1}" if result.epochs_before else ""
    return f"validation {metric} {best.val_score:.4f} at epoch {best.epoch}, {result.seconds:.1f} s{before}"
