"""The trained seeds of heads, and whether they belong to a task and to one another."""

from __future__ import annotations

from pathlib import Path

from ilse.errors import UserError
from trainer.artifact import TrainedHead, load_head
from trainer.objectives import Objective, choose
from trainer.task import Task


def load_seeds(folder: Path, task: Task) -> list[TrainedHead]:
    """The heads in `folder/seed-<n>`, by n. Raises `UserError` for none, or for another capture or other labels."""
    named = [(path, path.name.removeprefix("seed-")) for path in folder.glob("seed-*")]
    seeds = sorted((path for path, number in named if number.isdecimal()), key=lambda path: int(path.name[5:]))
    if not seeds:
        raise UserError(
            f"head {folder}",
            expected="a folder seed-<n> for each seed",
            found="none",
            next_step=f"run 'ilse train {folder.name}' first, or take it out of train.heads",
        )
    heads = [load_head(path) for path in seeds]
    for path, head in zip(seeds, heads, strict=True):
        _require_same(path, "capture", head.facts.fingerprint[:16], task.cache.fingerprint[:16])
        _require_same(path, "labels", ", ".join(head.facts.labels), ", ".join(task.labels))
    return heads


def shared_objective(models: Path, trained: dict[str, list[TrainedHead]], task: Task) -> Objective:
    """What all heads were trained for: figures of different objectives cannot be compared.

    Raises `UserError` for heads of several, and for examples with other columns.
    """
    first = next(iter(trained.values()))[0].objective
    for name, seeds in trained.items():
        for seed in seeds:
            _require_same(models / name, "objective", first.kind, seed.objective.kind)
    choose(first.kind, task.targets.kind, task.pairs)
    return first


def _require_same(path: Path, what: str, trained: str, found: str) -> None:
    if trained != found:
        raise UserError(
            f"head {path}",
            expected=f"the {what} it was trained on ({trained})",
            found=found,
            next_step="train the head again on this cache and data set",
        )
