"""How often each label stands among the training examples, or their mean score: one answer to all examples."""

from __future__ import annotations

from ilse.core.tables import TRAIN, VALIDATION
from trainer.controls.base import Fit, Fitted, Given
from trainer.data.inputs import drawn_of
from trainer.objectives import Objective


def prepare_majority(given: Given) -> Fit:
    """The answer is [labels] frequencies, or the mean."""
    task = given.task

    def fit(objective: Objective, seed: int) -> Fitted:
        y = task.training_targets(TRAIN)[drawn_of(task, given.training, seed)]
        named = task.targets.kind == "label"
        counted = y.bincount(minlength=len(task.labels)).double() / len(y) if named else y.double().mean(0)
        answer = counted.float()
        rows = (task.rows(VALIDATION), len(task.unlabelled_ids()))
        validation, test = (answer.expand(count, *answer.shape) for count in rows)
        return Fitted(validation, test, answer.numel())

    return fit
