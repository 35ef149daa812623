"""The analyse stage: what each layer contributes to the trained heads, on the validation split alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import polars as pl

from ilse.core.files.atomic import replacing_folder, require_ours, write_json
from ilse.core.files.ownership import ANALYSIS
from ilse.core.progress_bars import progress_bar
from ilse.core.tables import TRAIN
from trainer.analysis import attribution, by_input, cka, entropy, label_profiles, leave_one_out
from trainer.analysis.profiles import Row, Seeds
from trainer.artifacts.seeds import load_head_seeds, shared_objective
from trainer.config import TrainParams
from trainer.data.inputs import Inputs
from trainer.data.joined import Places, open_caches
from trainer.data.memory import memory_budget
from trainer.data.poolings import Poolings, row_width
from trainer.data.task import Task, open_task
from trainer.fitting.assembly import head_of, objective_of
from trainer.fitting.fit import fit
from trainer.rows.in_memory import Examples

OF_HEADS = {"leave_one_out": leave_one_out, "attribution": attribution, "entropy": entropy, "inputs": by_input}
"""Table → the module that makes its rows for one head."""
TABLES = {**OF_HEADS, "cka": cka, "classes": label_profiles}
PROBES, SEED = "best", 0


def analyse(params: TrainParams, cache: Places, examples: Path, models: Path, results: Path) -> None:
    """Writes `results/analysis/`: a CSV file for each of `TABLES`, and `caveats.json`, what they do not mean.

    Raises `UserError` for what `open_caches`, `open_task` and `load_head_seeds` refuse, and for heads of several
    objectives; the old tables then stay.
    """
    require_ours(results / "analysis", ANALYSIS, "--results")
    task = open_task(open_caches(cache), examples)
    trained = {name: load_head_seeds(models / name, task) for name in params.heads}
    shared_objective(models, trained, task)
    found = _of_heads([Seeds(name, seeds) for name, seeds in trained.items()], task, params.memory_budget)
    found["cka"] = list(_alike(task, params))
    found["classes"] = list(_classes(task, params))
    with replacing_folder(results / "analysis", ANALYSIS, "--results") as folder:
        for name, module in TABLES.items():
            pl.DataFrame(found[name], schema=module.COLUMNS).write_csv(folder / f"{name}.csv", float_precision=6)
        write_json(folder / "caveats.json", {name: module.CAVEAT for name, module in TABLES.items()})


def _of_heads(heads: list[Seeds], task: Task, budget: float | None) -> dict[str, list[Row]]:
    """The tables about heads that read several layers."""
    found: dict[str, list[Row]] = {name: [] for name in OF_HEADS}
    # Most heads read all layers: the last rows are kept for the next head.
    rows = lru_cache(maxsize=1)(partial(_rows, task, memory_budget(budget)))
    several = [seeds for seeds in heads if len(seeds.layers) > 1]
    with progress_bar(len(several), "analyse", "head") as bar:
        for seeds in several:
            split = partial(rows, seeds.layers, seeds.trained[0].facts.pooling)
            for name, module in OF_HEADS.items():
                found[name] += module.table(seeds, split)
            bar.update()
    return found


def _rows(task: Task, budget: int, layers: tuple[int, ...], poolings: Poolings, split: str) -> Examples:
    """The split's rows, in memory if they fit the budget, else read as they are used."""
    if task.bytes(split, len(layers), poolings) <= budget:
        return task.training_split(split, layers, poolings)
    return task.streamed_split(split, layers, poolings, memory_budget=budget)


def _alike(task: Task, params: TrainParams) -> Iterator[Row]:
    names, width = task.cache.layers, row_width(task.cache, params.pooling)
    fitting = memory_budget(params.memory_budget) // (
        3 * len(names) * width * 4
    )  # with standardised and centred copies
    return cka.table(task.sample(TRAIN, min(cka.TEXTS, fitting), params.pooling), names)


def _classes(task: Task, params: TrainParams) -> Iterator[Row]:
    """Label profiles from the probes that the head `best` chooses from; no rows if examples have no single label."""
    if task.targets.kind != "label":
        return iter(())
    # Their answers to validation rows are looked at, which they must not have seen.
    recipe = params.recipe_of(PROBES).model_copy(update={"refit": False, "folds": None})
    objective = objective_of(params, PROBES, task)
    probes = head_of(params, PROBES, task, objective, SEED, options={})
    _, train, validation = Inputs(
        task, params, recipe.treatment(), probes.layers_read, params.pooling_of(PROBES)
    ).of_seed(SEED)
    fit(probes, train, validation, objective, recipe, SEED, params.device)
    return label_profiles.table(probes.eval(), objective, validation, task.labels, task.cache.layers)
