"""Does the Cayley graph matter? The head `cayley` against layers in random orders on it, and against random graphs.

    python -m benchmarks.graph_controls [WORK] [--tasks NAME ...] [--draws N] [--seeds N] [--epochs N] [--quick]

WORK is that of `benchmarks.accuracy`, whose caches are read and whose folder keeps the runs: one that is stopped goes
on. `shuffled` is the same graph with the layers on its nodes in a random order, `random_regular` a random graph of as
many nodes, all with four neighbours; each is drawn several times, and every draw is trained with the same seeds and the
same recipe as `cayley`. Nothing is chosen; the test split is read once all heads of a task are trained.

A control's difference is its mean test accuracy over draws and seeds less that of `cayley`. Its 95 % interval is over
test examples (paired), over draws (each the mean of its seeds) and over the seeds of `cayley` (`trainer.statistics`).
The last line is JSON, and `benchmarks/results/graph_controls.json` the same: by control `mean_difference_points` over
tasks; by task the accuracies in per cent, their standard deviation over `cayley`'s seeds or a control's draws, and
`difference_points` with `interval`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import SAME_TEXTS, TASKS, Ran, interval, points, ran
from benchmarks.contenders import Contender
from ilse.core.files.atomic import write_json
from ilse.core.tables import EXAMPLES_FILE
from trainer.statistics import difference, of_rows

DEFAULT_TASKS = ("poem_sentiment", "banking77", "emotion")
REFERENCE = "cayley"
CONTROLS: dict[str, dict[str, Any]] = {"shuffled": {"order": "shuffled"}, "random_regular": {"graph": "random_regular"}}
QUICK = {"epochs": 2}
RESULTS = Path("benchmarks/results/graph_controls.json")


def main() -> None:
    """Runs what is missing and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, nargs="?", default=Path("/tmp/accuracy"))
    parser.add_argument("--tasks", nargs="+", default=list(DEFAULT_TASKS), choices=TASKS)
    parser.add_argument("--draws", type=int, default=5, help="random orders, and random graphs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="of every fit, in place of the recipe's own")
    parser.add_argument("--quick", action="store_true", help="end within a minute: one task, two draws, two epochs")
    given = parser.parse_args()
    if min(given.draws, given.seeds) < 2:
        parser.error("a deviation takes two draws and two seeds")
    if given.quick:
        with tempfile.TemporaryDirectory() as runs:
            print(
                json.dumps(summary({DEFAULT_TASKS[0]: of_task(DEFAULT_TASKS[0], given.work, Path(runs), 2, 2, QUICK)}))
            )
        return
    recipe = {} if given.epochs is None else {"epochs": given.epochs}
    runs = given.work / "runs" / "graph" / f"epochs {given.epochs}"
    figures = {task: of_task(task, given.work, runs / task, given.draws, given.seeds, recipe) for task in given.tasks}
    found = {"draws": given.draws, "seeds": given.seeds, "epochs": given.epochs, **summary(figures)}
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, found)
    print(json.dumps(found))


def of_task(
    task: str, work: Path, runs: Path, draws: int, seeds: int, recipe: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Trains all, then evaluates all: `cayley`, and each control as often as it is drawn."""
    examples, cache = cached(task, work)
    contenders = {REFERENCE: Contender("cayley", recipe=recipe or {})} | {
        f"{control} {draw}": Contender("cayley", {**options, "graph_seed": draw}, recipe or {})
        for control, options in CONTROLS.items()
        for draw in range(draws)
    }
    folders = {name: runs / f"{name}, {seeds} seeds" for name in contenders}
    for name, contender in contenders.items():
        contender.fit(seeds, cache, examples, folders[name])
    done = {name: ran(contender, seeds, examples, cache, folders[name]) for name, contender in contenders.items()}
    for name, run in done.items():
        print(f"{task:15} {name:17} {run.line()}", flush=True)
    reference = done[REFERENCE]
    drawn = {control: [done[f"{control} {draw}"] for draw in range(draws)] for control in CONTROLS}
    return {
        REFERENCE: accuracies(reference.validation, reference.test),
        **{control: against(of_draws, reference) for control, of_draws in drawn.items()},
    }


def cached(task: str, work: Path) -> tuple[Path, Path]:
    """The examples and the cache of a task, as `benchmarks.accuracy` left them."""
    examples, cache = work / task / EXAMPLES_FILE, work / SAME_TEXTS.get(task, task) / "cache.zarr"
    for path in (examples, cache):
        if not path.exists():
            raise SystemExit(f"no {path}: run python -m benchmarks.accuracy DATA {work} --tasks {task} first")
    return examples, cache


def against(draws: list[Ran], reference: Ran) -> dict[str, Any]:
    """A control's figures. Its unit is a draw, the mean of its seeds: seeds of one draw share the graph."""
    found = difference(of_rows(np.stack([run.right.mean(0) for run in draws])), of_rows(reference.right))
    return {
        **accuracies(*([float(np.mean(getattr(run, split))) for run in draws] for split in ("validation", "test"))),
        "difference_points": points(found.difference),
        "interval": interval(found),
    }


def accuracies(validation: list[float], test: list[float]) -> dict[str, float]:
    """In per cent."""
    return {
        "validation": points(float(np.mean(validation))),
        "test": points(float(np.mean(test))),
        "deviation": points(float(np.std(test, ddof=1))),
    }


def summary(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures over all tasks."""
    gaps = {control: [of_task[control]["difference_points"] for of_task in tasks.values()] for control in CONTROLS}
    return {
        "mean_difference_points": {control: round(float(np.mean(of)), 2) for control, of in gaps.items()},
        "tasks": tasks,
    }


if __name__ == "__main__":
    main()
