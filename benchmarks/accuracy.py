"""Test accuracy of the heads on the paper's classification tasks, against our twin of the published Cayley code.

    python -m benchmarks.accuracy DATA WORK [--models NAME ...] [--tasks NAME ...] [--contenders NAME ...] [--seeds N]
                                  [--quick]

DATA has a folder a task with `train.parquet`, `test.parquet` and perhaps `validation.parquet`, columns `text` and
`label`. WORK keeps the models, the caches and every finished run: a run that is stopped goes on, and a second one adds
what it is told to add. Mean pooling, at most 128 tokens, float16, and the state of every token in seven layers, by the
same stages that a user runs.

Each contender (`CONTENDERS`) is a head with options and a recipe. The chosen one is the contender with the best mean
validation accuracy of a task: among heads on pooled rows within `SHARE` of the model's parameters (`small`), among all
on pooled rows (`unlimited`), and among these and heads that read tokens (`tokens`). `auto`, with five minutes and one
seed, has searched on validation, so its figure there is no one's equal: it stands alone. One choice per task, without a
look at its test split. The gain is its test accuracy over that of
`published`, with a 95 % interval over test examples (paired) and seeds (`trainer.statistics`). The last line is JSON,
and `benchmarks/results/accuracy.json` the same, in which tasks that are not run now stay as they were:
`mean_gain_points`, `worst_task_gain_points` and `significantly_behind` (tasks whose interval is below 0), the same with
`_unlimited`, `_tokens` and `_auto`; `controls_ahead`, the controls (`CONTROLS`) that are significantly ahead of what
is chosen under `tokens`; and per model and task every contender's validation and test accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.contenders import Contender
from benchmarks.demo import RAW, demo_params, plain_copy
from ilse.core.files.atomic import write_json
from ilse.core.files.json_files import read_json
from ilse.core.files.table_files import read_csv, read_parquet
from ilse.core.params import load_section, validate
from ilse.core.tables import EXAMPLES_FILE, SPLITS, TEXTS_FILE
from pipeline.config import ExtractParams, ModelParams, TokenParams
from pipeline.stages.extract import extract
from pipeline.stages.fetch import FetchParams, fetch
from pipeline.stages.prepare import PrepareParams, prepare
from pipeline.store import open_cache
from trainer.artifacts.answers import load_answers
from trainer.config import AUTO, TrainParams
from trainer.controls.config import ControlParams
from trainer.data.task import open_task
from trainer.stages.control import control
from trainer.statistics import Difference, difference, of_rows

TASKS = ("banking77", "emotion", "mtop_domain", "mtop_intent", "poem_sentiment")
SAME_TEXTS = {"mtop_domain": "mtop_intent"}
"""Task → the task whose cache holds its texts."""
HELD_OUT = {"train": 0.7, "validation": 0.15, "test": 0.15}
"""As in the paper, 15 % of train where a task has no validation split."""
SHARE = 0.0025
"""Of the model's parameters: the limit of a small head."""
RESULTS = Path("benchmarks/results/accuracy.json")


LIMITS = {"small": "", "unlimited": "_unlimited", "tokens": "_tokens", "auto": "_auto"}
"""Among what is chosen → how the figures of all tasks end."""
CONTROLS = ("words", "mean_probe", "last_probe")


@dataclass(frozen=True)
class Frozen:
    """A model that is read: the file of its caches, the layers whose token states they keep, and its folder."""

    cache: str
    token_layers: list[int | str] | None
    folder: Callable[[Path], Path]


def smollm2(work: Path) -> Path:
    """The demo's model as float32 safetensors in `work`, made once."""
    if not (work / "model" / "config.json").exists():
        plain_copy(demo_params().model, work / "model")
    return work / "model"


def minilm(_: Path) -> Path:
    """The demo's embedder, fetched once."""
    if not (RAW / "minilm").exists():
        fetch(load_section("fetch.minilm", FetchParams).root, RAW / "minilm")
    return RAW / "minilm"


SMOLLM2 = "SmolLM2-135M"
MODELS = {
    SMOLLM2: Frozen("cache.zarr", [0, 5, 10, 15, 20, 25, 30], smollm2),
    "all-MiniLM-L6-v2": Frozen("minilm.zarr", None, minilm),
}
COMPACT: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens, rank 64 int8": ("compact-", {"rank": 64, "storage_type": "int8"}),
    "tokens, rank 128 int4": ("int4-", {"rank": 128, "storage_type": "int4"}),
}
"""Contender → what stands before the name of its cache, and how that keeps token states: on a basis, in as many bytes.
"""
REFERENCE = "published"
CONTENDERS: dict[str, Contender] = {
    # 2 message layers of 1 linear layer, mean, dropout 0.1, Adam 1e-3, decay 1e-4, 20 epochs: the published run.
    REFERENCE: Contender("cayley", {"doubled_edges": True}, {"preset": "paper", "epochs": 20}),
    "last": Contender("last"),
    "best": Contender("best"),
    "weighted": Contender("weighted"),
    "mlp": Contender("mlp", {"fusion": "weighted"}),
    "set": Contender("set"),
    "fc": Contender("fc"),
    "cayley": Contender("cayley"),
    "bottleneck": Contender("bottleneck"),
    "tokens": Contender("bottleneck", {"tokens": {}}),
    "tokens, wide": Contender("bottleneck", {"tokens": {"rank": 64}}, {"learning_rate": 1e-3}),
    "tokens, rank 64 int8": Contender("bottleneck", {"tokens": {}}),
    "tokens, rank 128 int4": Contender("bottleneck", {"tokens": {"rank": 32}}),
    AUTO: Contender(AUTO, {"minutes": 5}),
}


def main() -> None:
    """Runs what is missing and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="end within minutes: the smallest task, two heads, a seed")
    given = parser.parse_args()
    if given.quick:
        given.models, given.tasks, given.seeds = ["all-MiniLM-L6-v2"], ["poem_sentiment"], 1
        given.contenders = [REFERENCE, "weighted", "tokens"]
    figures = {
        f"{model}/{task}": of_task(*runs_of(given, model, task)) for model in given.models for task in given.tasks
    }
    if not given.quick and RESULTS.exists():  # what is not run now stays
        figures = read_json(RESULTS)["tasks"] | figures
    found = summary(figures)
    if not given.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        write_json(RESULTS, found)
    print(json.dumps(found))


def runs_of(given: argparse.Namespace, model: str, task: str) -> tuple[dict[str, Ran], dict[str, Ran]]:
    """The contenders' runs and the controls'."""
    here = given.work / "runs" / ("" if model == SMOLLM2 else model) / task
    whole = made(task, given.data, given.work, model)
    runs, controls = {}, {}
    for name in given.contenders:
        places = made(task, given.data, given.work, model, name) if name in COMPACT else whole
        folder = here / f"{name}, {given.seeds} seeds"
        runs[name] = ran(CONTENDERS[name], given.seeds, *places, folder)
        print(f"{model:16} {task:15} {name:20} {runs[name].line()}", flush=True)
    for name in CONTROLS:
        controls[name] = answered(name, *whole, here / f"control {name}")
        print(f"{model:16} {task:15} {name:20} {controls[name].line()}", flush=True)
    return runs, controls


def made(task: str, data: Path, work: Path, model: str = SMOLLM2, contender: str = "") -> tuple[Path, Path]:
    """The examples and the cache of a task, which is a contender's own where it is one of `COMPACT`."""
    frozen = MODELS[model]
    held = work / SAME_TEXTS.get(task, task)
    for name in dict.fromkeys((held.name, task)):
        if not (work / name / EXAMPLES_FILE).exists():
            prepare(source(data / name), work / name)
    if held.name != task and not _texts(held).equals(_texts(work / task)):
        raise SystemExit(f"{task} and {held.name} have other texts: take {task} out of SAME_TEXTS")
    before, kept = COMPACT.get(contender, ("", {}))
    tokens = TokenParams(layers=frozen.token_layers, **kept)
    change = {"model": ModelParams(path=frozen.folder(work)), "token_states": tokens}
    params: ExtractParams = demo_params().model_copy(update=change)
    cache = held / f"{before}{frozen.cache}"
    extract(params, held / TEXTS_FILE, cache, held / "scratch")  # finished bytes stay
    return work / task / EXAMPLES_FILE, cache


def source(folder: Path) -> PrepareParams:
    """What to prepare: a file for each split that there is."""
    files = {split: str(folder / f"{split}.parquet") for split in SPLITS if (folder / f"{split}.parquet").exists()}
    return validate("prepare", PrepareParams, {"path": files, "format": "parquet", "splits": HELD_OUT})


def _texts(folder: Path) -> pl.DataFrame:
    return read_parquet(folder / TEXTS_FILE)


@dataclass(frozen=True)
class Ran:
    """A contender on a task: accuracies by seed, shares; and which test examples each seed got right."""

    validation: list[float]
    test: list[float]
    right: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    parameters: int
    share: float

    def line(self) -> str:
        """For the terminal."""
        both = (f"{100 * np.mean(values):.2f}" for values in (self.validation, self.test))
        return "validation {}, test {}".format(*both) + f", {self.parameters:,} parameters"


def ran(contender: Contender, seeds: int, examples: Path, cache: Path, folder: Path, shots: int | None = None) -> Ran:
    """Trains and evaluates by the stages themselves, or reads what they wrote before."""
    runs, predictions = contender.run(seeds, cache, examples, folder, shots)
    board = read_csv(folder / "results" / "leaderboard.csv").row(0, named=True)
    return Ran(
        validation=runs["val_score"].to_list(),
        test=runs["test_score"].to_list(),
        right=np.stack([(of_seed["label"] == of_seed["prediction"]).to_numpy() for of_seed in predictions]),
        parameters=board["parameters"],
        share=board["share_percent"] / 100,
    )


def answered(name: str, examples: Path, cache: Path, folder: Path) -> Ran:
    """Fits a control by its stage, or reads what it answered before."""
    models, texts = folder / "models", cache.parent / TEXTS_FILE
    if not (folder / "results" / "train" / f"{name}.json").exists():
        control(ControlParams(), TrainParams(), name, cache, examples, texts, models, folder / "results")
    task = open_task(open_cache(cache), examples)
    answers = load_answers(models / name / "seed-0", task)
    right = (answers.predicted.argmax(1) == task.held_out_targets()).numpy()
    return Ran([answers.facts.val_score], [float(right.mean())], right[None], answers.facts.parameters, 0.0)


def of_task(runs: dict[str, Ran], controls: dict[str, Ran]) -> dict[str, Any]:
    """A task's figures: each contender's and control's, and the chosen ones against the reference and the controls."""
    shown = {
        name: {
            "validation": round(100 * float(np.mean(run.validation)), 2),
            "test": round(100 * float(np.mean(run.test)), 2),
            "test_by_seed": [round(100 * value, 2) for value in run.test],
            "parameters": run.parameters,
        }
        for name, run in {**runs, **controls}.items()
    }
    ours = {name: run for name, run in runs.items() if name != REFERENCE}
    plain = {name: run for name, run in ours.items() if name != AUTO}
    pooled = {name: run for name, run in plain.items() if "tokens" not in CONTENDERS[name].options}
    small = {name: run for name, run in pooled.items() if run.share <= SHARE}
    alone = {name: run for name, run in ours.items() if name == AUTO}
    limits = {"small": small, "unlimited": pooled, "tokens": plain, "auto": alone}
    found = {limit: chosen(among, runs.get(REFERENCE)) for limit, among in limits.items() if among}
    best = runs[found["tokens"]["contender"]] if "tokens" in found else None
    return {
        "contenders": {name: shown[name] for name in runs},
        "controls": {name: shown[name] | (against(run, best) if best else {}) for name, run in controls.items()},
        **found,
    }


def against(control: Ran, head: Ran) -> dict[str, Any]:
    """How far a control is ahead of the chosen head."""
    found = difference(of_rows(control.right), of_rows(head.right))
    return {"ahead_points": points(found.difference), "interval": interval(found)}


def chosen(among: dict[str, Ran], reference: Ran | None) -> dict[str, Any]:
    """The best on validation, and what it gains over the reference in points of mean test accuracy."""
    name = max(among, key=lambda name: float(np.mean(among[name].validation)))
    if reference is None:
        return {"contender": name}
    found = difference(of_rows(among[name].right), of_rows(reference.right))
    return {"contender": name, "gain_points": points(found.difference), "interval": interval(found)}


def points(share: float) -> float:
    """As the results show it."""
    return round(100 * share, 2)


def interval(found: Difference) -> list[float]:
    """In points."""
    return [points(found.low), points(found.high)]


def summary(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures over all tasks that have them."""
    found: dict[str, Any] = {}
    for limit, ending in LIMITS.items():
        of_limit = {task: figure[limit] for task, figure in figures.items() if "gain_points" in figure.get(limit, {})}
        if of_limit:
            gains = [one["gain_points"] for one in of_limit.values()]
            found[f"mean_gain_points{ending}"] = round(float(np.mean(gains)), 2)
            found[f"worst_task_gain_points{ending}"] = min(gains)
            found[f"significantly_behind{ending}"] = [task for task, one in of_limit.items() if one["interval"][1] < 0]
    ahead = [
        f"{name} on {task}"
        for task, figure in figures.items()
        for name, one in figure.get("controls", {}).items()
        if one.get("interval", [0])[0] > 0
    ]
    return found | {"controls_ahead": ahead, "tasks": figures}


if __name__ == "__main__":
    main()
