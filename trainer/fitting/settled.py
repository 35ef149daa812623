"""Settles what a recipe leaves open by the head and its rows: whether it is solved, and whether folds choose.

What is settled is explicit, so that the same recipe given by hand makes the same head; it stands in the head's record.
"""

from __future__ import annotations

from ilse.core.terminal import say
from trainer.config import Recipe
from trainer.data.task import InMemory
from trainer.fitting.solved import FOLDS, is_linear, is_solved
from trainer.heads import Head
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples
from trainer.rows.stream import StreamedRows

FEW_ROWS = 1_000
"""Labelled rows at most for folds by `auto`: a validation split of so few says little, and six trainings take
seconds."""


def settled(recipe: Recipe, head: Head, objective: Objective, train: Examples, validation: Examples) -> Recipe:
    """`recipe` with an optimizer and a number of folds, or none, in place of `auto`; what is explicit stays.

    Raises `UserError` where it names `lbfgs` for what has no optimum to be found.
    """
    solved = is_solved(head, objective, recipe, train)
    if recipe.optimizer == "auto" and is_linear(head) and isinstance(train, StreamedRows):
        say(f"{head.spec.name}: rows that are read as they are used are trained on by AdamW, and not solved")
    optimizer = "lbfgs" if solved else "adamw" if recipe.optimizer == "auto" else recipe.optimizer
    smoothing = 0.0 if solved and recipe.label_smoothing == "auto" else recipe.smoothing
    folds = _folds(recipe, head, train, validation) if recipe.folds == "auto" else recipe.folds
    return recipe.model_copy(update={"optimizer": optimizer, "label_smoothing": smoothing, "folds": folds})


def _folds(recipe: Recipe, head: Head, train: Examples, validation: Examples) -> int | None:
    """Few rows are too few to keep some for a choice alone, unless the recipe or the head needs these."""
    keeps = recipe.refit is False or recipe.penalty == "validation" or head.calibrated
    if keeps or not isinstance(train, InMemory):
        return None
    rows = len(train.y) + (0 if validation is train else len(validation.y))
    return FOLDS if 2 * FOLDS <= rows <= FEW_ROWS else None
