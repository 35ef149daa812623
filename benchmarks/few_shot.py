"""Test accuracy with few labelled examples of each label: the heads on two tasks, k examples a label, five draws.

    python -m benchmarks.few_shot DATA WORK [--tasks NAME ...] [--shots K ...] [--draws N] [--quick]

DATA and WORK are those of `benchmarks.accuracy`, whose caches it shares. A draw is the same examples for
every head; the best epoch is chosen on the task's whole validation split, as with all examples. The last line is JSON,
and `benchmarks/results/few_shot.json` the same: by task, head and k the mean test accuracy in per cent over the draws,
its standard deviation, and the distance from `last` in points with a 95 % interval over test examples and draws, both
paired.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import CONTENDERS, Ran, interval, made, points, ran
from ilse.core.files.atomic import write_json
from trainer.statistics import difference, of_rows

TASKS = ("emotion", "mtop_domain")
SHOTS = (4, 8, 16, 32, 64)
HEADS = ("last", "best", "weighted", "set", "fc", "cayley", "mlp", "bottleneck")
RESULTS = Path("benchmarks/results/few_shot.json")


def main() -> None:
    """Runs what is missing and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="end within minutes: one task, two heads, one draw of 4")
    given = parser.parse_args()
    heads = HEADS
    if given.quick:
        given.tasks, given.shots, given.draws, heads = [TASKS[1]], [4], 1, HEADS[:2]
    found: dict[str, Any] = {}
    for task in given.tasks:
        examples, cache = made(task, given.data, given.work)
        for k in given.shots:
            runs = {}
            for name in heads:
                folder = given.work / "runs" / task / f"{name}, {k} shots, {given.draws} draws"
                runs[name] = ran(CONTENDERS[name], given.draws, examples, cache, folder, shots=k)
                print(f"{task:12} {k:3} shots {name:11} {runs[name].line()}", flush=True)
            for name, run in runs.items():
                found.setdefault(task, {}).setdefault(name, {})[k] = figures(run, runs["last"])
    if not given.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        write_json(RESULTS, found)
    print(json.dumps(found))


def figures(run: Ran, last: Ran) -> dict[str, Any]:
    """A head's mean over the draws, and how far it is from `last`."""
    gain = difference(of_rows(run.right), of_rows(last.right), paired_seeds=True)
    return {
        "test": round(100 * float(np.mean(run.test)), 2),
        "deviation": round(100 * float(np.std(run.test, ddof=1)), 2) if len(run.test) > 1 else None,
        "gain_points": points(gain.difference),
        "interval": interval(gain),
    }


if __name__ == "__main__":
    main()
