"""The trained seeds of heads and controls, and whether they belong to a task and to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ilse.core.errors import UserError
from trainer.artifacts.answers import Answers, has_answers, load_answers
from trainer.artifacts.artifact import TrainedHead, load_head
from trainer.artifacts.best_seed import seed_folders
from trainer.config import AUTO
from trainer.data.joined import sources_of
from trainer.data.sources import models_in_words
from trainer.data.task import Task
from trainer.heads import HEADS
from trainer.objectives import Objective, choose

CACHES = "caches, in their order,"
NAME_THEM = "name those in that order, in train.caches or by a --cache for each, or train the head again on these"


def load_seeds(folder: Path, task: Task) -> list[TrainedHead | Answers]:
    """The heads, or the answers that something else gave, in `folder/seed-<n>`, by n.

    Raises `UserError` for none, for a head of another capture or other labels, and as `load_answers` does.
    """
    paths = _seed_folders(folder)
    return [load_answers(path, task) if has_answers(path) else _load_head(path, task) for path in paths]


def load_head_seeds(folder: Path, task: Task) -> list[TrainedHead]:
    """Loads all seeds of a head; refuses controls, which read no layers. Raises `UserError` as `load_seeds` does."""
    return [_load_head(path, task) for path in _seed_folders(folder)]


def require_a_head(models: Path, trained: Mapping[str, Sequence[TrainedHead | Answers]]) -> None:
    """Raises `UserError` where there are controls alone."""
    if not any(isinstance(one, TrainedHead) for seeds in trained.values() for one in seeds):
        raise UserError(
            f"models {models}",
            expected="at least one trained head, since controls are never chosen",
            found=f"answers alone: {', '.join(trained)}",
            next_step="run 'ilse train' for a head, and name it in train.heads",
        )


def shared_objective(models: Path, trained: Mapping[str, Sequence[TrainedHead | Answers]], task: Task) -> Objective:
    """What all heads were trained for: figures of different objectives cannot be compared.

    Raises `UserError` for heads of several, and for examples with other columns.
    """
    first = next(iter(trained.values()))[0].objective
    for name, seeds in trained.items():
        for seed in seeds:
            _require_same(models / name, "objective", first.kind, seed.objective.kind)
    choose(first.kind, task.targets.kind, task.pairs)
    return first


def _seed_folders(folder: Path) -> list[Path]:
    seeds = seed_folders(folder)
    if not seeds:
        raise UserError(
            f"head {folder}",
            expected="a folder seed-<n> for each seed",
            found="none",
            next_step=_how_to_make(folder.name),
        )
    return seeds


def _how_to_make(name: str) -> str:
    if name == "lora":
        return "run 'ilse lora' first, or set lora.run to []"
    command, key = ("train", "train.heads") if name in (*HEADS, AUTO) else ("control", "the section 'controls'")
    return f"run 'ilse {command} {name}' first, or remove it from {key}"


def _load_head(path: Path, task: Task) -> TrainedHead:
    head = load_head(path)
    theirs, ours = head.facts.sources, sources_of(task.cache)
    if len(theirs) == len(ours) == 1:
        _require_same(path, "capture", head.facts.fingerprint[:16], task.cache.fingerprint[:16])
    else:
        _require_same(path, CACHES, models_in_words(theirs), models_in_words(ours))
    _require_same(path, "labels", ", ".join(head.facts.labels), ", ".join(task.labels))
    return head


def _require_same(path: Path, what: str, trained: str, found: str) -> None:
    if trained != found:
        raise UserError(
            f"head {path}",
            expected=f"the {what} it was trained on ({trained})",
            found=found,
            next_step=NAME_THEM if what == CACHES else "train the head again on this cache and data set",
        )
