"""Heads that are trained in epochs, judged by folds as solved heads are: on rows that a training did not see.

Each fold is left out of one training; all begin with the same weights. An epoch's figure is that of the answers to all
rows, each from the training that it was left out of. The head is then trained on all rows to the epoch with the best
figure, on the schedule of all epochs.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from ilse.core.errors import UserError
from trainer.config import Recipe
from trainer.data.task import InMemory
from trainer.fitting.best import BestStates
from trainer.fitting.losses import figure, told, total_weight
from trainer.fitting.running import trained
from trainer.fitting.solved import folds_of
from trainer.heads import Head
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples, Part

Triple = tuple[Tensor, Tensor, Tensor]
"""One epoch, per candidate: training loss, and loss and figure on the held-out rows."""


@dataclass(frozen=True)
class Folded:
    """What folds found: the epochs' figures, the best states on them of a training on all rows, and the time taken."""

    history: list[Triple]
    best: BestStates
    seconds: float


def require_foldable(head: Head, train: Examples, validation: Examples, folds: int) -> None:
    """Raises `UserError` for what can't be judged by so many folds.

    Refused are streamed rows, fewer rows than folds, and heads that choose something on validation after training.
    """
    if not isinstance(train, InMemory):
        raise _refused("rows that fit in memory", "rows that are read as they are used", "raise train.memory_budget")
    if head.calibrated:
        name = head.spec.name
        found, instead = f"'{name}', which then chooses when to leave", f"set train.options.{name}.recipe.folds to null"
        raise _refused("a head that needs no validation rows once it is trained", found, instead)
    rows = len(train.y) + (0 if validation is train else len(validation.y))
    if rows < folds:
        raise _refused(f"at most {rows}, the labelled rows", str(folds), "lower it, or give more examples")


def train_by_folds(
    head: Head,
    train: Examples,
    validation: Examples,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    accelerator: str,
) -> Folded:
    """Trains `head` on all rows to the epoch that `recipe.folds` of them choose, each candidate to its own.

    `seed` draws the folds. Where `validation` is `train` itself there are no other rows. The objective learns from the
    rows of each training, in the end from all. Raises `NotFiniteError` for such a loss.
    """
    started, folds = time.perf_counter(), recipe.folds
    assert isinstance(folds, int)  # `require_foldable`
    assert isinstance(train, InMemory)
    known = train if validation is train else train.joined(validation)  # type: ignore[arg-type]  # both are alike
    fold = folds_of(known.y, seed, folds)
    inside = [Part(known, (fold != number).nonzero()[:, 0]) for number in range(folds)]
    fewest = min(-(-len(part.y) // recipe.batch_size) for part in inside)
    recipe = recipe.for_batches(fewest).model_copy(update={"least_steps": 0})  # all have the same epochs
    all_epochs, losses, outside = recipe.model_copy(update={"patience": None}), [], []
    for number, part in enumerate(inside):
        judge = _Outside(objective, Part(known, (fold == number).nonzero()[:, 0]))
        training = trained(deepcopy(head), part, judge, objective, all_epochs, seed, accelerator)
        losses.append(torch.stack([loss for loss, _, _ in training.history]))
        outside.append(judge)
    history, last = _until_patient(_history(torch.stack(losses).mean(0), outside, objective), recipe.patience)
    again = trained(
        head,
        known,
        lambda _, epoch: history[epoch][1:],
        objective,
        all_epochs,
        seed,
        accelerator,
        watch=lambda epoch, _: epoch == last,
    )
    return Folded(history, again.best, time.perf_counter() - started)


class _Outside:
    """Answers to the rows of a fold, epoch after epoch."""

    def __init__(self, objective: Objective, rows: Part) -> None:
        self._objective = objective
        self.rows = rows
        self.found: list[tuple[Tensor, Tensor]] = []
        """Per epoch the losses, and the answers from which the figure is computed."""

    def __call__(self, head: Head, epoch: int) -> tuple[Tensor, Tensor]:
        head.eval()
        loss, answers = told(lambda x: head.supervised(x).logits, head, self._objective, self.rows)
        head.train()
        self.found.append((loss, answers))
        return loss, -loss  # only all folds together have a figure


def _history(losses: Tensor, outside: list[_Outside], objective: Objective) -> list[Triple]:
    """The epochs of all folds together."""
    y = torch.cat([judge.rows.y for judge in outside])
    own = [judge.rows.weights for judge in outside]
    totals = [total_weight(len(judge.rows.y), weights) for judge, weights in zip(outside, own, strict=True)]
    weights = None if own[0] is None else torch.cat([part for part in own if part is not None])
    found = []
    for train_loss, of_folds in zip(losses, zip(*(judge.found for judge in outside), strict=True), strict=True):
        sums = [total * loss for total, (loss, _) in zip(totals, of_folds, strict=True)]
        score = figure(objective, torch.cat([answers for _, answers in of_folds]), y, weights)
        found.append((train_loss, torch.stack(sums).sum(0) / sum(totals), score))
    return found


def _until_patient(history: list[Triple], patience: int | None) -> tuple[list[Triple], int]:
    """The epochs until none was better for as long as `patience`, and the last one that is a candidate's best."""
    best = BestStates(len(history[0][1]))
    for epoch, (_, loss, score) in enumerate(history):
        best.offer(epoch, score, loss, {})
        last = int(best.epoch.max())
        if patience is not None and epoch - last >= patience:
            break
    return history[: epoch + 1], last


def _refused(expected: str, found: str, next_step: str) -> UserError:
    return UserError("parameter train.recipe.folds", expected=expected, found=found, next_step=next_step)
