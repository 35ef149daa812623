"""The train stage: one head, several seeds, from the cache and the tables alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
from torch import Tensor

from ilse.core.files.atomic import replacing, replacing_folder, require_ours, write_json
from ilse.core.files.ownership import HEADS
from ilse.core.terminal import say
from pipeline.store import Cache
from trainer.artifacts.artifact import HeadFacts, TrainedHead, save_head
from trainer.config import Recipe, TrainParams
from trainer.data.inputs import draws_all
from trainer.data.joined import Places, open_caches, sources_of
from trainer.data.poolings import TOKENS, Poolings
from trainer.data.shared_inputs import SharedInputs
from trainer.data.task import Task, open_task
from trainer.fitting.assembly import head_of, objective_of
from trainer.fitting.fit import Fit, fit
from trainer.fitting.loop import Watch
from trainer.fitting.progress import Progress, fit_key, unfinished
from trainer.fitting.settled import settled
from trainer.heads import Head, head_config, head_kind
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples, told_of_all
from trainer.rows.ragged import Tokens
from trainer.rows.stream import Streamed
from trainer.treatment import Treatment


def train(params: TrainParams, name: str, cache: Places, examples: Path, models: Path, results: Path) -> dict[str, Any]:
    """Trains head `name` with seeds 0, 1, … and returns its validation figures.

    With `train.learning_rates` seed 0 tries them all, and the best one on validation is that of every seed. Writes
    `models/<name>/seed-<n>/`, `results/train/<name>.json` and `results/curves/<name>.csv`. With the same
    parameters, an interrupted run resumes where it was at most some seconds before. Raises `UserError` for an unknown
    head, and for what `open_caches`, `open_task`, `objective_of` and `fit` refuse; the old ones then stay.
    """
    head_kind(name)  # refuses a wrong name before anything is read
    require_ours(models / name, HEADS, "--models")
    trainer = HeadTrainer(open_task(open_caches(cache), examples), params, name, say)
    metric, fits = trainer.objective.metric, []
    with unfinished(models, name) as kept:
        with replacing_folder(models / name, HEADS, "--models") as folder:
            for seed in range(params.seeds):
                result, trained = trainer.of_seed(seed, kept)
                save_head(folder / f"seed-{seed}", trained)
                fits.append(result)
        return write_figures(name, metric, trained.facts.recipe["learning_rate"], fits, results)


class HeadTrainer:
    """One head of a task, to be trained with any seed; what all seeds share is read once. Writes no head.

    With `train.learning_rates` the first seed tries them all, and the best one on validation is that of the next ones.
    `say` is told a line about every fit; `inputs` are shared with other heads of the task. Raises `UserError` as
    `train` does.
    """

    def __init__(
        self,
        task: Task,
        params: TrainParams,
        name: str,
        say: Callable[[str], None] = lambda line: None,
        inputs: SharedInputs | None = None,
    ) -> None:
        self._task, self._params, self._name, self._say = task, params, name, say
        self._recipes, self.objective = params.recipes_of(name), objective_of(params, name, task)
        self._reads, self._pooling = self._head(0).layers_read, params.pooling_of(name)
        # Of several caches, no head reads tokens.
        self._basis = task.cache.basis() if self._pooling == TOKENS and isinstance(task.cache, Cache) else None
        shared = SharedInputs(task, params) if inputs is None else inputs
        self._inputs = shared.of(self._recipes[0].treatment(), self._reads, self._pooling)
        self._undrawn: tuple[Recipe, Treatment, Fit] | None = None
        """What every seed comes to, where nothing is drawn."""

    def of_seed(self, seed: int, unfinished: Path | None = None, watch: Watch | None = None) -> tuple[Fit, TrainedHead]:
        """How training went, and the head; an interrupted fit is kept in the folder `unfinished`, to be resumed.

        `watch` may end a fit early.
        """
        recipe, treatment, result = self._best_run(seed, unfinished, watch)
        facts = _facts(self._task, self._pooling, recipe.model_dump(), seed, self.objective, result)
        return result, TrainedHead(_for_head(treatment, self._reads, result), result.head, facts, self._basis)

    def _best_run(self, seed: int, unfinished: Path | None, watch: Watch | None) -> tuple[Recipe, Treatment, Fit]:
        """The best run over the learning rates that are left to try."""
        if self._undrawn is not None:
            self._say(f"{self._name} seed {seed}: the same head, since nothing in its training is random")
            return self._undrawn
        tried = []
        for recipe in self._recipes:
            tried.append(self._run(recipe, seed, unfinished, watch))
            if tried[-1][2].penalty is not None:
                break  # an optimum is the same at every learning rate
        best = max(tried, key=lambda run: (run[2].best.val_score, -run[2].best.val_loss))
        self._recipes = [best[0]]
        if not best[2].drawn and draws_all(self._params) and watch is None:
            self._undrawn = best
        return best

    def validated(self, head: Head, seed: int) -> tuple[Tensor, Tensor]:
        """Predictions of the trained `head` for the validation examples, in their order, and their targets."""
        _, _, rows = self._inputs.of_seed(seed)
        places = [self._reads.index(layer) for layer in head.layers_read]

        def told(x: Any) -> Tensor:
            if len(places) < len(self._reads):  # `best` was trained on all layers and kept one
                x = x.of_layers(places) if isinstance(x, Tokens) else x[:, places]
            return self.objective.predict(head(x))

        return told_of_all(rows, told), rows.y

    def _run(
        self, recipe: Recipe, seed: int, unfinished: Path | None, watch: Watch | None
    ) -> tuple[Recipe, Treatment, Fit]:
        """The recipe as it was settled, with what came of it."""
        task, params = self._task, self._params
        treatment, train_rows, validation_rows = self._inputs.of_seed(seed)
        head, given = self._head(seed), recipe
        recipe = settled(given, head, self.objective, train_rows, validation_rows)
        if recipe.folds != given.folds and recipe.folds is not None and given is self._recipes[0]:
            rows = len(train_rows.y) + len(validation_rows.y)
            self._say(
                f"{self._name}: with {rows:,} labelled rows, {recipe.folds} folds of them choose, "
                "and all are trained on (train.recipe.folds)"
            )
        progress = None
        if unfinished is not None:
            key = _progress_key(task, params, recipe, head, seed, train_rows)
            progress = Progress(unfinished / f"seed-{seed}-at-{recipe.learning_rate:g}.safetensors", key)
        result = fit(head, train_rows, validation_rows, self.objective, recipe, seed, params.device, progress, watch)
        plain = params.learning_rates is None or result.penalty is not None
        rate = "" if plain else f" at {recipe.learning_rate:g}"
        self._say(f"{self._name} seed {seed}{rate}: {_line(self.objective.metric, result)}")
        return recipe, treatment, result

    def _head(self, seed: int) -> Head:
        return head_of(self._params, self._name, self._task, self.objective, seed)


def _progress_key(task: Task, params: TrainParams, recipe: Recipe, head: Head, seed: int, rows: Examples) -> str:
    own = {
        "head": head_config(head),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "block_shards": rows.block_shards if isinstance(rows, Streamed) else None,
    }
    return fit_key(task, params, own)


def _for_head(treatment: Treatment, reads: tuple[int, ...], result: Fit) -> Treatment:
    """The treatment of the rows that the trained head reads: `best` trains on all layers and keeps one."""
    return treatment.of_layers([reads.index(layer) for layer in result.head.layers_read])


def _facts(
    task: Task, pooling: Poolings, recipe: dict[str, Any], seed: int, objective: Objective, result: Fit
) -> HeadFacts:
    first, *further = sources_of(task.cache)
    return HeadFacts(
        objective=objective.facts(),
        labels=list(task.labels),
        capture=first.capture,
        pooling=pooling if isinstance(pooling, str) else tuple(pooling),
        model_name=first.model_name,
        model_parameters=first.model_parameters,
        recipe=recipe,
        seed=seed,
        best_epoch=result.best.epoch,
        val_score=result.best.val_score,
        val_loss=result.best.val_loss,
        train_seconds=result.seconds,
        layer_scores=result.layer_scores,
        penalty=result.penalty,
        further=tuple(further),
    )


def write_figures(name: str, metric: str, rate: float, fits: list[Fit], results: Path) -> dict[str, Any]:
    """Writes the curves and the figures of the fits of `models/name`, and returns the figures."""
    curves = [
        {"head": name, "seed": seed, **asdict(epoch)} for seed, result in enumerate(fits) for epoch in result.curve
    ]
    with replacing(results / "curves" / f"{name}.csv") as file:
        pl.DataFrame(curves).write_csv(file)
    figures = {
        "metric": metric,
        "val_score": median(result.best.val_score for result in fits),
        "val_loss": median(result.best.val_loss for result in fits),
        "learning_rate": rate,
        "train_seconds": round(median(result.seconds for result in fits), 2),
        "seeds": len(fits),
    }
    write_json(results / "train" / f"{name}.json", figures)
    return figures


def _line(metric: str, result: Fit) -> str:
    best = result.best
    before = f", resumed after epoch {result.epochs_before - 1}" if result.epochs_before else ""
    place = f"epoch {best.epoch}" if result.penalty is None else f"penalty {result.penalty:.3g}"
    return f"validation {metric} {best.val_score:.4f} at {place}, {result.seconds:.1f} s{before}"
