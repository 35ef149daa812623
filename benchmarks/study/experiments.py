"""What the study's experiments are, and their queue in DVC."""

from __future__ import annotations

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
    """All of them, in the order of the file; `data` has a folder a task."""
    plan = yaml.safe_load(study.read_text(encoding="utf-8"))
    for model, path in plan["models"].items():
        for task, of_task in plan["tasks"].items():
            own = (
                f"prepare.path={(data / task).resolve()}",
                f"extract.model.path={path}",
                f"train.recipe.epochs={of_task['epochs']}",
                *plan["also"].get(f"{model}/{task}", []),
            )
            yield Experiment(model, task, (*plan["every"], *plan[of_task["kind"]], *own))


def ended(repo: Repo) -> dict[str, str]:
    """Name → commit of the experiments that have ended, those of the newest commit last."""
    return {name: commit for names in repo.experiments.ls(all_commits=True).values() for name, commit in names}


def run(chosen: list[Experiment], jobs: int) -> int:
    """Queues what has not ended at this commit, runs the queue, and returns DVC's exit code."""
    with Repo() as repo:
        waiting = {entry.name for entry in repo.experiments.celery_queue.iter_queued()}
        here = {name for names in repo.experiments.ls().values() for name, _ in names}
        for experiment in chosen:
            if experiment.name not in here | waiting:
                repo.experiments.run(["evaluate"], list(experiment.overrides), queue=True, name=experiment.name)
    command = [sys.executable, "-m", "dvc", "exp", "run", "--run-all", "--jobs", str(jobs)]
    return subprocess.run(command, check=False).returncode
