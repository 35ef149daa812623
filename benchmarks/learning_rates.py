"""The same small grid of learning rates for every head of the demo, judged on validation alone.

    python -m benchmarks.learning_rates [--quick]

A comparison with an untuned baseline says nothing. Needs the demo's cache (`make demo`). The last line is JSON: head,
then rate, then median validation accuracy over the seeds; and `chosen`: the recipe's rate, unless another is better by
more than one standard error of the validation accuracy (Breiman's rule: less is noise of the few rows).
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from pathlib import Path
from statistics import median

import torch

from ilse.core.params import load_section
from ilse.core.tables import TRAIN, VALIDATION
from pipeline.store import open_cache
from trainer.config import TrainParams
from trainer.data.task import Task, open_task
from trainer.fitting.fit import Epoch, fit
from trainer.heads import build_head
from trainer.objectives import MultiClass
from trainer.rows.in_memory import Rows
from trainer.treatment import Standardise

RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: two heads, two rates")
    quick = parser.parse_args().quick
    params = load_section("train", TrainParams)
    task = open_task(open_cache(Path("data/cache.zarr")), Path("data/examples.parquet"))
    train, validation = (treated(task, split) for split in (TRAIN, VALIDATION))
    figures = {}
    for name in ["last", "mean"] if quick else params.heads:
        bests = {rate: run(params, task, name, rate, train, validation) for rate in (RATES[1:3] if quick else RATES)}
        accuracy = {rate: median(best.val_score for best in of_rate) for rate, of_rate in bests.items()}
        shared = params.recipe.learning_rate
        highest = max(accuracy, key=lambda rate: accuracy[rate])
        error = sqrt(accuracy[highest] * (1 - accuracy[highest]) / len(validation.y))
        chosen = highest if accuracy[highest] > accuracy[shared] + error else shared
        figures[name] = {**{str(rate): round(value, 4) for rate, value in accuracy.items()}, "chosen": chosen}
        print(name, figures[name], flush=True)
    print(json.dumps(figures))


def treated(task: Task, split: str) -> Rows:
    """All layers of a split, standardised by the training rows."""
    rows = task.training_split(split)
    reference = rows if split == TRAIN else task.training_split(TRAIN)
    standardise = Standardise(len(task.cache.layers), task.cache.dim).fit(reference.x)
    return Rows(standardise(rows.x), rows.y, rows.text_ids)


def run(params: TrainParams, task: Task, name: str, rate: float, train: Rows, validation: Rows) -> list[Epoch]:
    """The best epoch of each seed."""
    recipe = params.recipe.model_copy(update={"learning_rate": rate})
    bests = []
    for seed in range(params.seeds):
        torch.manual_seed(seed)
        shape = {"layers": len(task.cache.layers), "dim": task.cache.dim, "out": len(task.labels)}
        head = build_head(name, params.head_options(name), **shape)
        bests.append(fit(head, train, validation, MultiClass(task.labels), recipe, seed).best)
    return bests


if __name__ == "__main__":
    main()
