"""What metrics without labels say of the best layer, and what `ilse layers --suggest` keeps, on the paper's tasks.

    python -m benchmarks.layer_choice DATA WORK [--models NAME ...] [--tasks NAME ...] [--limit N] [--quick]

DATA is that of `benchmarks.accuracy`. Of each task a sample of N texts is prepared (`prepare.limit`), in its own
splits, and WORK keeps the caches and the finished figures: a run that is stopped goes on. Metrics are those of
`trainer.layers` on that cache, entropies and curvature of tokens on a second one of `TOKEN_TEXTS` of its texts with
the states of all tokens. None of them sees a label.

A layer's accuracy is that of a linear model on it alone, solved on the training texts, with the penalty that is best
on validation, on the test texts. For each model, task and metric: Spearman's correlation over layers with accuracy,
and the same with depth partialled out (correlation of the ranks' residuals on the ranks of depth). Over all models and
tasks: their means, with a 95 % interval by resampling blocks of `BLOCK` neighbouring layers within each model and
task.

A metric chooses the layer at which it is highest, or lowest: whichever had the higher mean correlation on the other
tasks, of both models. Choices are shown beside the last layer, a fixed depth of two thirds, the layer that is best on
validation, and the one that is best on test, which nobody can know (`oracle`): mean test accuracy, in points, lost
against it. `suggested` is what the advice keeps: the test accuracy of the head `linear` on these layers less that on
all, with a 95 % interval over test texts, and the shares of bytes and blocks that are saved.

The last line is JSON, and `benchmarks/results/layer_choice.json` the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, rankdata

from benchmarks.accuracy import MODELS, TASKS, interval, points, source
from benchmarks.demo import demo_params
from ilse.core.files.atomic import write_json
from ilse.core.files.json_files import read_json
from ilse.core.files.table_files import read_parquet
from ilse.core.tables import EXAMPLES_FILE, TEST, TEXTS_FILE, TRAIN, VALIDATION
from pipeline.config import ModelParams, TokenParams
from pipeline.stages.extract import extract
from pipeline.stages.prepare import prepare
from pipeline.store import open_cache
from trainer.config import Recipe
from trainer.data.task import Task, open_task
from trainer.estimator import HeadClassifier
from trainer.fitting.solved import solve
from trainer.heads import build_head
from trainer.layer_metrics.advice import advise
from trainer.layer_metrics.probes import AT_ONCE, Probed
from trainer.library import layers as metrics_of
from trainer.objectives import MultiClass
from trainer.rows.in_memory import Rows
from trainer.statistics import difference, of_rows
from trainer.treatment import Standardise

RESULTS = Path("benchmarks/results/layer_choice.json")
TOKEN_TEXTS = 1000
BLOCK = 3
"""Neighbouring layers, which are alike: resampled one by one they would seem to be more evidence than they are."""
DRAWS = 500
UNLABELLED = (
    "entropy", "entropy_centred", "rankme", "rankme_centred", "effective_rank_centred", "participation_centred",
    "anisotropy", "cosine", "norm", "massive", "dimension", "cka_last",
)  # fmt: skip
OF_TOKENS = ("prompt_entropy", "curvature", "token_anisotropy")
Values = NDArray[np.float64]


def main() -> None:
    """Runs what is missing and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--limit", type=int, default=6000)
    parser.add_argument("--quick", action="store_true", help="one task, the small model, few texts")
    given = parser.parse_args()
    if given.quick:
        given.models, given.tasks, given.limit = ["all-MiniLM-L6-v2"], ["poem_sentiment"], 400
    tasks = {}
    for model in given.models:
        for task in given.tasks:
            kept = given.work / "layer_choice" / f"{model} {task} {given.limit}.json"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(kept, of_task(given, model, task))
            tasks[f"{model}/{task}"] = read_json(kept)
            print(f"{model} {task}: {told(tasks[f'{model}/{task}'])}", flush=True)
    found = {"limit": given.limit, "metrics": correlations(tasks), "choices": choices(tasks), "tasks": tasks}
    if not given.quick:
        write_json(RESULTS, found)
    print(json.dumps(found))


def of_task(given: argparse.Namespace, model: str, task: str) -> dict[str, Any]:
    """Every layer's metrics and accuracies, and what is suggested."""
    folder = given.work / "sampled" / f"{task} {given.limit}"
    if not (folder / EXAMPLES_FILE).exists():
        prepare(source(given.data / task).model_copy(update={"limit": given.limit}), folder)
    places = cached(given, model, folder, None), cached(given, model, few_texts(folder), TokenParams())
    table = pl.concat([metrics_of(places[0]), metrics_of(places[1]).filter(pl.col("metric").is_in(OF_TOKENS))])
    shutil.rmtree(places[1])  # the largest, and done with
    cache = open_cache(places[0])
    probed = probes(places[0], folder / EXAMPLES_FILE)
    return {
        "layers": list(cache.layers),
        "metrics": {name: by_layer(table, name, len(cache.layers)) for name in (*UNLABELLED, *OF_TOKENS)},
        **{split: [points(float(share)) for share in one.right.double().mean(0)] for split, one in probed.items()},
        "suggested": suggested(places[0], folder / EXAMPLES_FILE, probed[VALIDATION]),
    }


def few_texts(folder: Path) -> Path:
    """A folder with the table of the first texts."""
    few = folder / "few"
    few.mkdir(exist_ok=True)
    read_parquet(folder / TEXTS_FILE).head(TOKEN_TEXTS).write_parquet(few / TEXTS_FILE)
    return few


def cached(given: argparse.Namespace, model: str, folder: Path, tokens: TokenParams | None) -> Path:
    """The cache of a folder's texts."""
    change = {"model": ModelParams(path=MODELS[model].folder(given.work)), "token_states": tokens}
    place = folder / MODELS[model].cache
    extract(demo_params().model_copy(update=change), folder / TEXTS_FILE, place, folder / "scratch")
    return place


def by_layer(table: pl.DataFrame, metric: str, layers: int) -> list[float | None]:
    """A metric's value of each layer; none where it has none."""
    found = dict(table.filter(pl.col("metric") == metric).select("layer", "value").iter_rows())
    return [found.get(layer) for layer in range(layers)]


def probes(place: Path, examples: Path) -> dict[str, Probed]:
    """Answers of a linear model on each layer to the validation and the test texts."""
    cache = open_cache(place)
    task = open_task(cache, examples)
    train, held, test = rows_of(task)
    told: dict[str, list[torch.Tensor]] = {VALIDATION: [], TEST: []}
    for first in range(0, len(cache.layers), AT_ONCE):
        x = train.x[:, first : first + AT_ONCE]
        treatment = Standardise(*x.shape[1:]).fit(x)
        head = build_head("best", {}, layers=x.shape[1], dim=x.shape[2], out=len(task.labels))
        own = {
            split: treatment(rows.x[:, first : first + AT_ONCE]) for split, rows in ((VALIDATION, held), (TEST, test))
        }
        recipe = Recipe(optimizer="lbfgs", penalty="validation", refit=False, folds=None, label_smoothing=0.0)
        solve(
            head, Rows(treatment(x), train.y, []), Rows(own[VALIDATION], held.y, []), MultiClass(task.labels), recipe,
            seed=0, device="cpu",
        )  # fmt: skip
        with torch.no_grad():
            for split, rows in own.items():
                told[split].append(head(rows).log_softmax(2))
    ys = {VALIDATION: held.y, TEST: test.y}
    return {split: Probed(torch.cat(parts, dim=1), ys[split], len(train.y)) for split, parts in told.items()}


def rows_of(task: Task) -> tuple[Rows, Rows, Rows]:
    """The three splits in memory."""
    splits = task.training_split(TRAIN), task.training_split(VALIDATION), task.held_out()
    return tuple(rows for rows in splits if isinstance(rows, Rows))  # type: ignore[return-value]


def suggested(place: Path, examples: Path, probed: Probed) -> dict[str, Any]:
    """What the advice keeps, and what the head `linear` loses by it."""
    advice = advise(probed)
    if advice is None:
        return {}
    cache = open_cache(place)
    task = open_task(cache, examples)
    train, held, test = rows_of(task)
    x, y = torch.cat([train.x, held.x]).numpy(), torch.cat([train.y, held.y]).numpy()
    right = {}
    for name, chosen in (("all", range(len(cache.layers))), ("kept", advice.layers)):
        head = HeadClassifier("linear").fit(x[:, list(chosen)], y)
        right[name] = (head.predict(test.x.numpy()[:, list(chosen)]) == test.y.numpy())[None]
    found = difference(of_rows(right["kept"]), of_rows(right["all"]))
    return {
        "layers": list(advice.layers), "of": advice.of, "all": points(float(right["all"].mean())),
        "kept": points(float(right["kept"].mean())),
        "difference": points(found.difference), "interval": interval(found),
        "bytes_saved": round(1 - len(advice.layers) / advice.of, 3),
        "blocks_saved": round(1 - advice.layers[-1] / (advice.of - 1), 3),
    }  # fmt: skip


def told(figures: dict[str, Any]) -> str:
    """For the terminal."""
    best = int(np.argmax(figures[TEST]))
    kept = figures["suggested"]
    return f"best layer {best} of {len(figures['layers'])} ({figures[TEST][best]}), last {figures[TEST][-1]}" + (
        f", kept {kept['layers']} ({kept['difference']:+} points)" if kept else ""
    )


def spearman(a: Values, b: Values, depth: Values | None = None) -> float:
    """Correlation of the ranks; of what depth does not tell of them, where it is given. 0 for a constant."""
    a, b = rankdata(a), rankdata(b)
    if depth is not None:
        depth = rankdata(depth)
        a, b = (values - np.polyval(np.polyfit(depth, values, 1), depth) for values in (a, b))
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-9 else 0.0


def known(figures: dict[str, Any], metric: str) -> tuple[Values, Values, Values] | None:
    """Depth, metric and test accuracy of the layers that have the metric."""
    values = figures["metrics"][metric]
    there = [layer for layer, value in enumerate(values) if value is not None]
    if len(there) < 4:
        return None
    columns = (there, [values[layer] for layer in there], [figures[TEST][layer] for layer in there])
    depth, value, accuracy = (np.asarray(column, float) for column in columns)
    return depth, value, accuracy


def correlations(tasks: dict[str, Any]) -> dict[str, Any]:
    """By metric: the mean correlation with accuracy, also without depth, with intervals; and that of each task."""
    random, found = np.random.default_rng(0), {}
    for metric in (*UNLABELLED, *OF_TOKENS):
        each = {task: one for task, figures in tasks.items() if (one := known(figures, metric)) is not None}
        drawn = np.array([_both(_resampled(columns, random) for columns in each.values()) for _ in range(DRAWS)])
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        mean = _both(each.values())
        found[metric] = {
            "spearman": round(mean[0], 2), "interval": [round(low[0], 2), round(high[0], 2)],
            "without_depth": round(mean[1], 2), "interval_without_depth": [round(low[1], 2), round(high[1], 2)],
            "by_task": {task: round(spearman(m, a), 2) for task, (_, m, a) in each.items()},
        }  # fmt: skip
    return found


def _both(each: Any) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        pairs = [(spearman(m, a), spearman(m, a, d)) for d, m, a in each]
    return float(np.mean([one for one, _ in pairs])), float(np.mean([two for _, two in pairs]))


def _resampled(columns: tuple[Values, Values, Values], random: np.random.Generator) -> tuple[Values, Values, Values]:
    """Blocks of neighbouring layers, in a circle, as many layers as there are."""
    size = len(columns[0])
    starts = random.integers(0, size, -(-size // BLOCK))
    places = ((starts[:, None] + np.arange(BLOCK)) % size).ravel()[:size]
    depth, value, accuracy = (column[places] for column in columns)
    return depth, value, accuracy


def texts_of(task: str) -> str:
    """Whose texts a model's task is of: the two of MTOP have the same."""
    return task.split("/")[1].split("_")[0]


def choices(tasks: dict[str, Any]) -> dict[str, Any]:
    """By rule: the mean test accuracy of the layers that it chooses, and what it loses against the best layer."""
    chosen: dict[str, dict[str, int]] = {}
    for task, figures in tasks.items():
        last = len(figures["layers"]) - 1
        rules = {
            "last": last, "two thirds": round(2 * last / 3), "validation": int(np.argmax(figures[VALIDATION])),
            "oracle": int(np.argmax(figures[TEST])),
        }  # fmt: skip
        for metric in (*UNLABELLED, *OF_TOKENS):
            others = {name: one for name, one in tasks.items() if texts_of(name) != texts_of(task)}
            there = [columns for one in others.values() if (columns := known(one, metric)) is not None]
            own = known(figures, metric)
            if there and own is not None:
                sign = 1 if np.mean([spearman(m, a) for _, m, a in there]) >= 0 else -1
                rules[metric] = int(own[0][np.argmax(sign * own[1])])
        for rule, layer in rules.items():
            chosen.setdefault(rule, {})[task] = layer
    found = {}
    for rule, layers in chosen.items():
        accuracy = {task: tasks[task][TEST][layer] for task, layer in layers.items()}
        lost = [max(tasks[task][TEST]) - value for task, value in accuracy.items()]
        found[rule] = {
            "accuracy": round(float(np.mean(list(accuracy.values()))), 2), "lost": round(float(np.mean(lost)), 2),
            "most_lost": round(max(lost), 2), "layers": layers,
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
