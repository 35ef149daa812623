"""What a trained head answers from each of two caches of the same texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ilse.core.errors import UserError
from ilse.core.tables import VALIDATION
from pipeline.store import Cache
from trainer.artifacts.artifact import TrainedHead, load_head, require_one_model
from trainer.artifacts.best_seed import best_seed
from trainer.cache_drift.matching import Matched
from trainer.data.memory import memory_budget
from trainer.data.task import Task, open_task
from trainer.fitting.solved import FEW_ROWS
from trainer.heads import PairHead
from trainer.objectives import choose
from trainer.objectives.labelled import SingleLabel
from trainer.objectives.multi_label import MultiLabel
from trainer.rows.in_memory import Examples, told_of_all
from trainer.rows.stream import StreamedRows
from trainer.rows.token_stream import StreamedTokens

ANOTHER = "compare caches of the model, layers and pooling that the head was trained on"


@dataclass(frozen=True)
class Answers:
    """One head's answers to the same examples from both caches.

    Parameters
    ----------
    trained
        The head.
    a, b
        Probabilities or scores, [examples, …], from the first and the second cache.
    y
        Targets of the examples; None where they have none.
    of
        What the examples are, for people.
    """

    trained: TrainedHead
    a: Float[Tensor, "examples ..."]
    b: Float[Tensor, "examples ..."]
    y: Tensor | None
    of: str

    @property
    def changed(self) -> Bool[np.ndarray, " examples"] | None:
        """Whose label, or any of whose labels, is another one; None where the head answers with scores."""
        objective = self.trained.objective
        if isinstance(objective, SingleLabel):
            return (objective.chosen(self.a) != objective.chosen(self.b)).numpy()
        if isinstance(objective, MultiLabel):
            return ((self.a > 0.5) != (self.b > 0.5)).any(1).numpy()
        return None

    @property
    def moved(self) -> float:
        """How far scores move: the mean of |b − a|, in standard deviations of a."""
        spread = float(self.a.double().std(correction=0))
        return float((self.b.double() - self.a.double()).abs().mean()) / (spread or 1.0)

    @property
    def may_know_them(self) -> bool:
        """Whether the head may have been trained on these validation examples, of which it is surer than of others."""
        recipe = self.trained.facts.recipe
        few = recipe.get("refit") == "auto" and len(self.a) < FEW_ROWS
        refit = recipe.get("optimizer") == "lbfgs" and (recipe.get("refit") is True or few)
        return self.y is not None and (recipe.get("folds") is not None or refit)


def answers(matched: Matched, folder: Path, examples: Path | None) -> Answers:
    """Answers of the head in `folder` to the validation examples or, without examples, to all texts of both caches.

    Raises `UserError` as `load_head` and `open_task` do, for a head that was trained on neither cache or whose rows one
    of them does not hold, for examples of other labels or of texts that are not in both, and for a head that compares
    two texts without examples that name them.
    """
    folder = best_seed(folder)
    trained = load_head(folder)
    require_one_model(trained, "comparing caches", "compare with a head over one of the models")
    _require_rows(folder, trained, matched)
    if examples is None:
        if isinstance(trained.inner, PairHead) or trained.objective.embeds:
            expected = "examples, which say which texts are compared"
            raise _refused(f"head {folder}", expected, "none", "name their table with --examples")
        found = [_told(trained, _all_texts(trained, cache, matched)) for cache in (matched.a, matched.b)]
        return Answers(trained, found[0], found[1], None, "texts")
    tasks = [open_task(cache, examples) for cache in (matched.a, matched.b)]
    _require_targets(folder, trained, tasks[0])
    found = [_told(trained, _validation(trained, task)) for task in tasks]
    y = tasks[0].training_targets(VALIDATION)
    return Answers(trained, found[0], found[1], y, "validation examples")


def _told(trained: TrainedHead, rows: Examples) -> Float[Tensor, "examples ..."]:
    return told_of_all(rows, lambda x: trained.objective.predict(trained(x)))


def _all_texts(trained: TrainedHead, cache: Cache, matched: Matched) -> Examples:
    """Shard by shard, one at a time."""
    places = matched.in_a if cache is matched.a else matched.in_b
    layers, y = trained.head.layers_read, torch.empty(len(places), 0)
    if trained.facts.reads_tokens:
        return StreamedTokens(cache, layers, places, y, [], 1)
    return StreamedRows(cache, layers, places, y, [], 1, poolings=trained.facts.pooling)


def _validation(trained: TrainedHead, task: Task) -> Examples:
    layers, poolings, budget = trained.head.layers_read, trained.facts.pooling, memory_budget(None)
    if task.pairs or task.bytes(VALIDATION, len(layers), poolings) <= budget:
        return task.training_split(VALIDATION, layers, poolings)
    return task.streamed_split(VALIDATION, layers, poolings, memory_budget=budget)


def _require_rows(folder: Path, trained: TrainedHead, matched: Matched) -> None:
    facts = trained.facts
    if facts.fingerprint not in (matched.a.fingerprint, matched.b.fingerprint):
        found = f"{matched.a.fingerprint[:16]} and {matched.b.fingerprint[:16]}"
        expected = f"one of the two caches to be of the capture it was trained on ({facts.fingerprint[:16]})"
        raise _refused(f"head {folder}", expected, found, ANOTHER)
    for cache in (matched.a, matched.b):
        theirs, own = cache.header.capture, facts.capture
        if facts.reads_tokens:
            kept = "the token states that the head reads: the same layers, in the same basis"
            same = theirs.tokens is not None and own.tokens is not None
            same = same and _directions(theirs.tokens) == _directions(own.tokens) and theirs.dim == own.dim
            if not same:
                raise _refused(f"cache {cache.path}", kept, "others, or none", ANOTHER)
        elif theirs.dim != own.dim:
            raise _refused(
                f"cache {cache.path}", f"rows of width {own.dim}, as of head {folder}", str(cache.dim), ANOTHER
            )


def _directions(tokens: object) -> tuple[object, ...]:
    return tuple(getattr(tokens, name) for name in ("layers", "rank", "basis"))


def _require_targets(folder: Path, trained: TrainedHead, task: Task) -> None:
    choose(trained.objective.kind, task.targets.kind, task.pairs)
    if list(task.labels) != list(trained.facts.labels):
        expected = f"the labels it was trained on ({', '.join(trained.facts.labels)})"
        raise _refused(
            f"head {folder}", expected[:300], ", ".join(task.labels)[:300], "name examples of this head's task"
        )


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
