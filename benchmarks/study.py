"""The published study (`docs/study.md`): all heads on two models and the paper's tasks, by one DVC experiment queue.

    python -m benchmarks.study DATA [--tasks NAME ...] [--models NAME ...] [--jobs N]

DATA has a folder a task, see `benchmarks/study.yaml`, which says what every experiment is. Each is the pipeline that a
user runs, up to `evaluate`, in a copy of the repository that DVC makes; one that has ended is not run again at the same
commit, so a study that was stopped goes on. `make study DATA=…` then collects and writes the page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from dvc.repo import Repo

STUDY = Path(__file__).with_name("study.yaml")


@dataclass(frozen=True)
class Experiment:
    """One model on one task, and what it changes in `params.yaml`."""

    model: str
    task: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """As DVC knows it."""
        return f"study-{self.model}-{self.task}".lower().replace("_", "-")


def experiments(data: Path, study: Path = STUDY) -> Iterator[Experiment]:
    """All of them, in the order of the file."""
    plan = yaml.safe_load(study.read_text(encoding="utf-8"))
    for model, path in plan["models"].items():
        for task, of_task in plan["tasks"].items():
            own = (
                f"prepare.path={(data / task).resolve()}",
                f"extract.model.path={path}",
                f"train.recipe.epochs={of_task['epochs']}",
            )
            yield Experiment(model, task, (*plan["every"], *plan[of_task["kind"]], *own))


def main() -> None:
    """Queues the experiments that are missing, and runs the queue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--jobs", type=int, default=1, help="experiments at a time")
    given = parser.parse_args()
    chosen = [
        one
        for one in experiments(given.data)
        if one.task in (given.tasks or [one.task]) and one.model in (given.models or [one.model])
    ]
    with Repo() as repo:
        done = {name for names in repo.experiments.ls().values() for name, _ in names}
        for experiment in chosen:
            if experiment.name not in done:
                repo.experiments.run(
                    targets=["evaluate"], name=experiment.name, params=list(experiment.overrides), queue=True
                )
    sys.exit(
        subprocess.run([sys.executable, "-m", "dvc", "exp", "run", "--run-all", "--jobs", str(given.jobs)]).returncode
    )


if __name__ == "__main__":
    main()
